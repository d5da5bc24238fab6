//! The verbs of administration against the shipped binary: `hearth dev` found by its folder, `hearth serve` by its port.

use std::path::Path;

use chaos_tests::site::{Door, Keys};
use chaos_tests::{Exit, Mesh, Peer, Served, Site, run};
use serde_json::{Value, json};

/// The lines of a verb that takes time.
fn lines(exit: &Exit) -> Vec<Value> {
    exit.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{exit:?}"))).collect()
}

async fn at(data: &Path, verb: &[&str]) -> Exit {
    let data = data.to_string_lossy().into_owned();
    run(&[verb, &["--json", "--data", &data]].concat()).await
}

async fn state(data: &Path, region: &str) -> Value {
    let status = at(data, &["region", "status"]).await.json();
    let rows = status["regions"].as_array().unwrap_or_else(|| panic!("{status}")).clone();
    rows.into_iter().find(|row| row["region"] == region).unwrap_or_else(|| panic!("{status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_find_a_mesh_by_its_folder_change_nothing_in_a_dry_run_and_say_what_to_type() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let data = mesh.data();
    let east = mesh.regions[1].id.clone();
    assert_eq!(state(&data, &east).await["state"], "active");
    let alive = at(&data, &["region", "failover", &east]).await;
    assert_eq!((alive.code, alive.json()["hint"].is_string()), (1, true), "{alive:?}");
    mesh.stop_region(1).await;

    let dry = at(&data, &["region", "failover", &east, "--dry-run"]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(lines(&dry).iter().any(|line| line["line"] == "plan"), "{dry:?}");
    assert_eq!(state(&data, &east).await["state"], "active");
    let made = at(&data, &["region", "failover", &east]).await;
    assert_eq!((made.code, &lines(&made).last().expect("lines")["changed"]), (0, &json!(true)), "{made:?}");
    let row = state(&data, &east).await;
    assert_eq!((&row["state"], &row["slots"]), (&json!("fenced"), &json!(0)));
    let again = at(&data, &["region", "failover", &east]).await;
    assert_eq!((again.code, &lines(&again).last().expect("lines")["changed"]), (0, &json!(false)), "{again:?}");

    let audit = at(&data, &["audit"]).await.json();
    let told: Vec<String> =
        audit["audit"].as_array().expect("lines").iter().map(|row| row["audit"]["state"].to_string()).collect();
    assert_eq!(told.join(" "), r#""began" "refused" "began" "done" "began" "done""#, "{audit}");
    assert!(audit["audit"][0]["audit"]["who"] == "admin", "{audit}");
    let parked = at(&data, &["parked", "list"]).await;
    assert_eq!((parked.code, parked.json()["regions"].as_array().map(Vec::len)), (0, Some(2)), "{parked:?}");
    let losses = at(&data, &["region", "losses"]).await;
    assert_eq!((losses.code, &losses.json()["losses"]), (0, &json!([])), "{losses:?}");
    let unknown = at(&data, &["home", "show", "00000000-0000-0000-0000-000000000007"]).await;
    assert_eq!(unknown.code, 1, "{unknown:?}");
    let nonsense = at(&data, &["home", "move", "--selector", "all", "--to", &east]).await;
    assert_eq!(nonsense.code, 2, "{nonsense:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_log_is_walked_while_its_region_runs_and_while_it_is_down() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let data = mesh.data();
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    ann.say(&group, "an entry to be walked over").await;
    drop(ann);
    let shown = at(&data, &["home", "show", &group]).await;
    assert_eq!((shown.code, &shown.json()["regions"][0]["home"]), (0, &json!(mesh.regions[0].id)), "{shown:?}");
    let running = at(&data, &["verify"]).await;
    assert_eq!(running.code, 0, "{running:?}");
    let walked = |exit: &Exit| lines(exit).iter().filter(|line| line["line"] == "verified").count();
    assert_eq!(walked(&running), 3, "{running:?}");
    mesh.stop_region(2).await;
    let mixed = at(&data, &["verify"]).await;
    assert_eq!((mixed.code, walked(&mixed)), (0, 3), "{mixed:?}");
    let folder = mesh.regions[2].data.to_string_lossy().into_owned();
    let one = run(&["verify", "--json", "--folder", &folder, "--region", &mesh.regions[2].id]).await;
    assert_eq!((one.code, walked(&one)), (0, 1), "{one:?}");
    mesh.end().await;
    let none = at(Path::new("no-mesh-was-here"), &["verify"]).await;
    assert_eq!(none.code, 7, "{none:?}");
    let none = at(Path::new("no-mesh-was-here"), &["region", "status"]).await;
    assert_eq!(none.code, 7, "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_region_lets_an_issued_administrator_in_and_nobody_else() {
    let site = Site::new([Door::Plain, Door::Plain], Keys::Secret).await;
    let region = Served::start(&site, 0).await;
    let file = std::fs::read(site.path("data-eu-west").join("administration.json")).expect("its address");
    let address: Value = serde_json::from_slice(&file).expect("JSON");
    let url = format!("https://{}", address["listen"].as_str().expect("an address"));
    let path = |name: &str| site.path(name).to_string_lossy().into_owned();
    for (authority, out) in [("ca", "admins"), ("other-ca", "strangers")] {
        let issued =
            run(&["ca", "issue", "admin", "--name", "ann", "--dir", &path(authority), "--out", &path(out)]).await;
        assert_eq!(issued.code, 0, "{issued:?}");
    }
    let ask = async |certificate: &str, verb: &[&str]| {
        let files = ["pem", "key"].map(|end| path(&format!("{certificate}.{end}")));
        let there = ["--json", "--admin", &url, "--cert", &files[0], "--key", &files[1], "--ca", &path("ca/ca.pem")];
        run(&[verb, &there].concat()).await
    };
    let status = ask("admins/ann.admin", &["region", "status"]).await;
    assert_eq!((status.code, &status.json()["nodes"][0]["region"]), (0, &json!("eu-west")), "{status:?}");
    let stranger = ask("strangers/ann.admin", &["region", "status"]).await;
    assert_eq!(stranger.code, 1, "{stranger:?}");
    let region_certificate = ask("tls/us-east", &["region", "status"]).await;
    assert_eq!(region_certificate.code, 2, "{region_certificate:?}");
    let elsewhere = ask("admins/ann.admin", &["region", "drain", "us-east"]).await;
    assert_eq!(elsewhere.code, 1, "{elsewhere:?}");
    assert!(elsewhere.json()["hint"].as_str().is_some_and(|hint| hint.contains("node of us-east")), "{elsewhere:?}");
    region.end().await;
}
