"""moto's S3 on a free port of this machine, behind a check that signs each request again with botocore.

moto takes any signature, of any time. The check refuses what S3 refuses: a request that is not signed, a signature that
botocore does not make of the same request with the headers that it names, and one whose time is over.

Prints the port, and ends when standard input does.
"""
import datetime
import sys
import threading
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEY, SECRET, REGION, BUCKET = "AKIATEST", "a secret of the tests", "eu-west-1", "media"
STAMP = "%Y%m%dT%H%M%SZ"


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    def log_request(self, *_):
        pass


def why_not(environ):
    """Why S3 would refuse a request; None where it would not."""
    if "HTTP_AUTHORIZATION" in environ:
        return None  # of the client below, which makes the bucket
    query = environ.get("QUERY_STRING", "")
    given = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
    if "X-Amz-Signature" not in given:
        return "AccessDenied"
    signed_at = datetime.datetime.strptime(given["X-Amz-Date"], STAMP)
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    if now > signed_at + datetime.timedelta(seconds=int(given["X-Amz-Expires"])):
        return "ExpiredToken"
    headers = {}
    for name in given["X-Amz-SignedHeaders"].split(";"):
        variable = name.upper().replace("-", "_")
        variable = variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"
        headers[name] = environ.get(variable, "")
    unsigned = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-Signature="))
    url = f"http://{environ['HTTP_HOST']}{environ['RAW_URI'].split('?')[0]}?{unsigned}"
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, headers=headers)
    request.context["timestamp"] = given["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", REGION, expires=int(given["X-Amz-Expires"]))
    text = auth.string_to_sign(request, auth.canonical_request(request))
    if auth.signature(text, request) != given["X-Amz-Signature"]:
        return "SignatureDoesNotMatch"
    return None


class Checked:
    """An application behind the check."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start_response):
        reason = why_not(environ)
        if reason is None:
            return self.application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{reason}</Code></Error>".encode()]


def main():
    application = Checked(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    print(server.server_port, flush=True)
    sys.stdin.read()
    # Its threads are daemons.


if __name__ == "__main__":
    main()
