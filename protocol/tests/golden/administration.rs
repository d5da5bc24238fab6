//! What scripts read of the verbs of administration, to the letter.

use hearth_protocol::admin::{AuditLine, Change, ChangeRequest, FaultRow, Line};
use hearth_protocol::{ConversationId, RegionId, Timestamp, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a name")
}

#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, text: &str) {
    assert_eq!(serde_json::to_string(value).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<T>(text).expect("reads"), *value);
}

#[test]
fn every_change_has_its_golden_form_and_reads_back() {
    let (eu, us) = (region("eu-west"), region("us-east"));
    let conversation = ConversationId(Uuid::from_u128(7));
    let ask = |change| ChangeRequest { change, dry_run: true };
    golden(
        &ask(Change::Failover { region: us.clone(), force: false, accept_loss: false }),
        r#"{"change":{"do":"failover","region":"us-east","force":false},"dryRun":true}"#,
    );
    golden(
        &Change::Failover { region: us.clone(), force: true, accept_loss: true },
        r#"{"do":"failover","region":"us-east","force":true,"acceptLoss":true}"#,
    );
    golden(&Change::Failback { region: us.clone() }, r#"{"do":"failback","region":"us-east"}"#);
    golden(
        &Change::Drain { region: us.clone(), over_milliseconds: 10_000, rate: 50 },
        r#"{"do":"drain","region":"us-east","overMilliseconds":10000,"rate":50}"#,
    );
    golden(&Change::Undrain { region: us.clone() }, r#"{"do":"undrain","region":"us-east"}"#);
    golden(&Change::AddRegion { region: us.clone() }, r#"{"do":"addRegion","region":"us-east"}"#);
    golden(&Change::RemoveRegion { region: us.clone() }, r#"{"do":"removeRegion","region":"us-east"}"#);
    golden(
        &Change::MoveHome { conversation, to: eu.clone() },
        r#"{"do":"moveHome","conversation":"00000000-0000-0000-0000-000000000007","to":"eu-west"}"#,
    );
    golden(
        &Change::MoveHomes { home: us, to: eu, rate: 50 },
        r#"{"do":"moveHomes","home":"us-east","to":"eu-west","rate":50}"#,
    );
    golden(
        &Change::Backup { region: region("eu-west"), to: "/copies/1".to_owned() },
        r#"{"do":"backup","region":"eu-west","to":"/copies/1"}"#,
    );
    golden(&Change::EraseUser { user: UserId::new("ann").expect("a name") }, r#"{"do":"eraseUser","user":"ann"}"#);
}

#[test]
fn every_line_of_an_answer_and_of_an_audit_log_has_its_golden_form_and_reads_back() {
    golden(&Line::Plan { text: "fence it".into() }, r#"{"line":"plan","text":"fence it"}"#);
    golden(
        &Line::Progress { step: "homes".into(), done: 3, total: Some(9), text: "3 of 9".into() },
        r#"{"line":"progress","step":"homes","done":3,"total":9,"text":"3 of 9"}"#,
    );
    golden(
        &Line::Done { changed: true, text: "it is fenced".into(), counts: vec![("slotsMoved".into(), 7)] },
        r#"{"line":"done","changed":true,"text":"it is fenced","counts":[["slotsMoved",7]]}"#,
    );
    let fault = FaultRow { log: "user:1".into(), sequence: 5, fault: "missing".into(), hint: "stop it".into() };
    golden(&Line::Fault(fault), r#"{"line":"fault","log":"user:1","sequence":5,"fault":"missing","hint":"stop it"}"#);
    golden(
        &Line::Verified { region: region("eu-west"), logs: 1, entries: 2, faults: 0 },
        r#"{"line":"verified","region":"eu-west","logs":1,"entries":2,"faults":0}"#,
    );
    golden(
        &Line::Refused { message: "no".into(), hint: "yes".into(), at: Some(region("us-east")), failed: false },
        r#"{"line":"refused","message":"no","hint":"yes","at":"us-east","failed":false}"#,
    );
    let audit = AuditLine {
        at: Timestamp(1),
        id: "c1".into(),
        who: "ann".into(),
        state: "began".into(),
        change: Change::Failback { region: region("us-east") },
        result: String::new(),
    };
    golden(&audit, r#"{"at":1,"id":"c1","who":"ann","state":"began","change":{"do":"failback","region":"us-east"}}"#);
}
