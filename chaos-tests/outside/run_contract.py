"""Holds a running development mesh against the OpenAPI document that it serves.

The ready line of `hearth dev --json` is on standard input. The document is read by a validator that is not ours, then
schemathesis sends what it allows and what it forbids. Exit 0 when nothing is found, 1 when something is, 2 when it could
not run.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import urllib.request

from openapi_spec_validator import validate

HERE = pathlib.Path(__file__).resolve().parent


def ask(url, body=None):
    """The JSON answer of a GET, or of a POST with a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10, help="requests of a phase for each operation")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="what the requests are drawn from")
    arguments = parser.parse_args()
    line = next((text for text in sys.stdin if text.startswith("{")), None)
    if line is None:
        print("no ready line on standard input", file=sys.stderr)
        return 2
    region = json.loads(line)["regions"][0]["http"]
    document = f"{region}/openapi.json"
    validate(ask(document))
    print(f"ok   {document} is OpenAPI 3.1", flush=True)
    token = ask(f"{region}/api/v1/dev/tokens", {"userId": f"contract-{arguments.seed}"})["token"]
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml"),
        "run", document, "--url", f"{region}/api/v1", "--header", f"Authorization: Bearer {token}",
        "--max-examples", str(arguments.examples), "--seed", str(arguments.seed),
    ]
    print(f"again with --seed {arguments.seed}", flush=True)
    # What it remembers of a run goes beside the packages, not into the folder that it is called from.
    remembers = pathlib.Path(sys.prefix).parent
    return 1 if subprocess.run(command, check=False, cwd=remembers).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
