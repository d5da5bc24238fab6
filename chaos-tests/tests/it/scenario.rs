//! Runs `outside/scenario.json`, the story that clients in other languages run too.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chaos_tests::{Auth, Mesh, Peer, new_id};
use hearth_client::TransportKind;
use serde_json::{Value, json};

struct Runner {
    mesh: Mesh,
    variables: BTreeMap<String, Value>,
    peers: BTreeMap<String, Peer>,
    note: String,
}

fn name_end(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len())
}

impl Runner {
    /// `value` with every `$name` replaced.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.filled_text(text),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| (name.clone(), self.filled(field)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    fn variable(&self, name: &str) -> &Value {
        self.variables.get(name).unwrap_or_else(|| panic!("{}: ${name} is not bound", self.note))
    }

    fn filled_text(&self, text: &str) -> Value {
        if let Some(name) = text.strip_prefix('$')
            && name_end(name) == name.len()
        {
            return self.variable(name).clone();
        }
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_at(name_end(part));
            match self.variable(name) {
                Value::String(text) => filled.push_str(text),
                other => filled.push_str(&other.to_string()),
            }
            filled.push_str(rest);
        }
        json!(filled)
    }

    fn bind(&mut self, step: &Value, from: &Value) {
        for (name, path) in step["bind"].as_object().into_iter().flatten() {
            let value = at(from, path.as_str().expect("a path"));
            let value = value.unwrap_or_else(|| panic!("{}: nothing at {path}", self.note));
            self.variables.insert(name.clone(), value);
        }
    }

    fn peer(&self, step: &Value) -> &Peer {
        &self.peers[step["client"].as_str().expect("a client")]
    }

    async fn connect(&mut self, step: &Value) {
        let text = |name: &str| step[name].as_str().map(str::to_owned);
        let user = text("user").expect("a user");
        let region = index(step, "region");
        let kind = match step["transport"].as_str() {
            Some("webtransport") => TransportKind::WebTransport,
            _ => TransportKind::WebSocket,
        };
        let token = match text("token") {
            Some(token) => token,
            None => self.mesh.token(&user, region).await,
        };
        let device = text("device").unwrap_or_else(new_id);
        if let Some(name) = text("deviceAs") {
            self.variables.insert(name, json!(device));
        }
        let auth =
            Auth { token, device: Some(device), resume: text("resumeToken"), cursors: step.get("cursors").cloned() };
        let peer = Peer::open(&self.mesh, &user, region, kind, auth).await;
        self.peers.insert(text("client").expect("a client"), peer);
    }

    async fn send(&mut self, step: &Value) {
        let message = step["message"].as_str().map_or_else(new_id, str::to_owned);
        if let Some(name) = step["as"].as_str() {
            self.variables.insert(name.to_owned(), json!(message));
        }
        let conversation = step["conversation"].as_str().expect("a conversation");
        self.peer(step).send_as(conversation, step["text"].as_str().expect("a text"), &message).await;
    }

    async fn rest(&mut self, step: &Value) {
        let text = |name: &str| step[name].as_str().expect("a text");
        let answer = self
            .mesh
            .rest(text("user"), index(step, "region"), text("method"), text("path"), step.get("body").cloned())
            .await;
        let expected = step["status"].as_array().expect("statuses").contains(&json!(answer.status));
        assert!(expected && matches(&answer.body, &step["where"]), "{}: {step} got {answer:?}", self.note);
        self.bind(step, &answer.body);
    }

    async fn in_order(&self, step: &Value) {
        let mut wanted: VecDeque<Value> = step["frames"].as_array().expect("frames").iter().cloned().collect();
        let kinds: Vec<Value> = wanted.iter().map(|frame| frame["type"].clone()).collect();
        let peer = self.peer(step);
        let deadline = std::time::Instant::now() + within(step);
        while let Some(next) = wanted.pop_front() {
            let frame = loop {
                if let Some(frame) = peer.take(|value| kinds.contains(&value["type"])) {
                    break frame.value;
                }
                assert!(std::time::Instant::now() < deadline, "{}: {} waits for {next}", self.note, peer.user);
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let fits = frame["type"] == next["type"] && matches(&frame, &next["where"]);
            assert!(fits, "{}: {} got {frame} instead of {next}", self.note, peer.user);
        }
    }

    async fn step(&mut self, step: &Value) {
        let step = &self.filled(step);
        let kind = step["type"].as_str().unwrap_or_default();
        match step["do"].as_str().unwrap_or_default() {
            "note" => step["text"].as_str().unwrap_or_default().clone_into(&mut self.note),
            "connect" => self.connect(step).await,
            "send" => self.send(step).await,
            "frame" => self.peer(step).frame(step["frame"].clone()).await,
            "expect" => {
                let found = self.peer(step).expect_within(kind, within(step), |frame| matches(frame, &step["where"]));
                let frame = found.await;
                self.bind(step, &frame.value);
            }
            "expectInOrder" => self.in_order(step).await,
            "expectNone" => {
                let found = self.peer(step).take(|frame| frame["type"] == kind && matches(frame, &step["where"]));
                assert!(found.is_none(), "{}: {step} found {found:?}", self.note);
            }
            "expectClosed" => {
                let code = self.peer(step).ended(within(step)).await;
                if let (Some(code), Some(wanted)) = (code, step["code"].as_u64()) {
                    assert_eq!(u64::from(code), wanted, "{}", self.note);
                }
            }
            "rest" => self.rest(step).await,
            "link" if step["state"] == "cut" => self.mesh.cut(index(step, "from"), index(step, "to")).await,
            "link" => self.mesh.heal(index(step, "from"), index(step, "to")).await,
            "close" => self.peer(step).leave().await,
            other => panic!("this runner does not know {other:?}"),
        }
    }
}

fn index(step: &Value, name: &str) -> usize {
    step[name].as_u64().and_then(|index| usize::try_from(index).ok()).expect("an index of a region")
}

fn within(step: &Value) -> Duration {
    Duration::from_millis(step["within"].as_u64().unwrap_or(10_000))
}

fn at(value: &Value, path: &str) -> Option<Value> {
    let mut here = value;
    for part in path.split('.') {
        if part == "#" {
            return here.as_array().map(|items| json!(items.len()));
        }
        here = match part.parse::<usize>() {
            Ok(index) if here.is_array() => here.get(index)?,
            _ => here.get(part)?,
        };
    }
    Some(here.clone())
}

fn matches(value: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(path, wanted)| {
        let found = at(value, path).filter(|found| !found.is_null());
        if let Some(present) = wanted["present"].as_bool() {
            return found.is_some() == present;
        }
        if let Some(least) = wanted["atLeast"].as_f64() {
            return found.and_then(|found| found.as_f64()).is_some_and(|found| found >= least);
        }
        if let Some(some) = wanted["oneOf"].as_array() {
            return found.is_some_and(|found| some.contains(&found));
        }
        found.as_ref() == Some(wanted)
    })
}

async fn run(transport: &str) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/outside/scenario.json");
    let scenario: Value = serde_json::from_str(&std::fs::read_to_string(file).expect("the scenario")).expect("JSON");
    let mesh = Mesh::start(&[]).await;
    let mut variables = BTreeMap::from([
        ("transport".to_owned(), json!(transport)),
        ("run".to_owned(), json!(format!("{:08x}", rand::random::<u32>()))),
    ]);
    for (index, region) in mesh.regions.iter().enumerate() {
        variables.insert(format!("region{index}"), json!(region.id));
    }
    let mut runner = Runner { mesh, variables, peers: BTreeMap::new(), note: String::new() };
    for step in scenario["steps"].as_array().expect("steps") {
        runner.step(step).await;
    }
    runner.peers.clear();
    runner.mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scenario_of_the_outside_clients_holds_over_websocket() {
    run("websocket").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scenario_of_the_outside_clients_holds_over_webtransport() {
    run("webtransport").await;
}
