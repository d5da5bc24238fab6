//! Exit codes and the ready line, which scripts rely on.

use std::time::Duration;

use chaos_tests::{Mesh, run};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_to_start_has_its_exit_code_and_says_what_to_type() {
    let mesh = Mesh::quick(&[]).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let usage = run(&["dev", "--no-such-flag"]).await;
    assert_eq!(usage.code, 2, "{usage:?}");
    let port = mesh.regions[0].http.rsplit(':').next().expect("a port").to_owned();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = elsewhere.path().join("data").to_string_lossy().into_owned();
    let taken = run(&["dev", "--json", "--port", &port, "--data", &other]).await;
    assert_eq!(taken.code, 3, "{taken:?}");
    assert!(taken.json()["hint"].is_string() && taken.json()["message"].is_string(), "{taken:?}");
    let in_use = run(&["dev", "--json", "--port", "0", "--data", &data]).await;
    assert_eq!(in_use.code, 4, "{in_use:?}");
    let none = run(&["dev", "start", "eu-west", "--data", &other]).await;
    assert_eq!(none.code, 7, "{none:?}");
    let already = mesh.dev("start", 0).await;
    assert_eq!(already.code, 6, "{already:?}");
    mesh.stop_region(2).await;
    let already = mesh.dev("stop", 2).await;
    assert_eq!(already.code, 6, "{already:?}");
    let unknown = run(&["dev", "stop", "no-such-region", "--data", &data]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_of_another_version_is_left_alone_with_code_5() {
    let mut mesh = Mesh::quick(&[]).await;
    println!("first ready after {:?}", mesh.ready_after);
    assert!(mesh.ready_after < Duration::from_secs(15));
    mesh.kill().await;
    let data = mesh.data();
    let version =
        std::fs::read_dir(&data).expect("the data folder").filter_map(Result::ok).map(|entry| entry.path()).find(
            |path| path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("version")),
        );
    let version = version.expect("the data folder names its version");
    let known = std::fs::read(&version).expect("a version");
    let other = String::from_utf8_lossy(&known).replace(|c: char| c.is_ascii_digit(), "9");
    std::fs::write(&version, other).expect("written");
    let exit = run(&["dev", "--json", "--port", "0", "--data", &data.to_string_lossy()]).await;
    assert_eq!(exit.code, 5, "{exit:?}");
    assert!(exit.json()["hint"].as_str().is_some_and(|hint| hint.contains("--fresh")), "{exit:?}");
    std::fs::write(&version, known).expect("written");
    mesh.restart().await;
    println!("ready {:?} after a kill", mesh.ready_after);
    assert!(mesh.ready_after < Duration::from_secs(15));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_with_0_and_a_second_sigint_ends_a_drain_at_once() {
    let mut mesh = Mesh::quick(&[]).await;
    mesh.signal(Signal::SIGTERM);
    assert_eq!(mesh.wait().await, 0);
    mesh.restart().await;
    let peer = chaos_tests::Peer::connect(&mesh, "ann", 0).await;
    mesh.signal(Signal::SIGINT);
    peer.expect("server.draining", |_| true).await;
    mesh.signal(Signal::SIGINT);
    assert_eq!(mesh.wait().await, 0);
    mesh.check_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_input_of_any_kind_says_what_is_wrong_and_what_to_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(folder.path().join("file"), "no folder").expect("written");
    std::fs::write(folder.path().join("bad.toml"), "[region\n").expect("written");
    let (none, file, bad, missing) = (path("none"), path("file"), path("bad.toml"), path("missing.toml"));
    let ca = path("ca");
    assert_eq!(run(&["ca", "init", "--dir", &ca]).await.code, 0);
    // What is typed; its code; a word of what is wrong; a word of what to type.
    let table: [(&[&str], i32, &str, &str); 20] = [
        (&["dve"], 2, "dve", "--help"),
        (&["dev", "--no-such-flag"], 2, "--no-such-flag", "--help"),
        (&["dev", "--port", "70000"], 2, "70000", "--help"),
        (&["dev", "--port", "65535", "--data", &none], 2, "65535", "--help"),
        (&["dev", "--latency", "fast", "--data", &none], 2, "--latency fast", "--latency 20ms"),
        (&["dev", "--anti-entropy", "0s", "--data", &none], 2, "--anti-entropy 0s", "--anti-entropy 1s"),
        (&["dev", "--failover", "maybe", "--data", &none], 2, "maybe", "--help"),
        (&["dev", "--failover-after", "500ms", "--data", &none], 2, "--failover-after 500ms", "--failover-after 10s"),
        (&["dev", "--regions", "EU", "--data", &none], 2, "\"EU\"", "--help"),
        (&["dev", "--regions", "eu,eu", "--data", &none], 2, "twice", "--help"),
        (&["dev", "--data", &file], 70, "a folder is needed", "--data DIR"),
        (&["dev", "start", "eu-west", "--data", &none], 7, "no mesh runs", "hearth dev"),
        (&["dev", "link", "cut", "eu-west", "--data", &none], 2, "<TO>", "--help"),
        (&["dev", "token", "ann", "--data", &none], 7, "no mesh runs", "hearth dev"),
        (&["serve", "--config", &missing], 2, "missing.toml", "config check"),
        (&["serve", "--config", &bad], 2, "bad.toml", "config check"),
        (&["ca", "issue", "EU", "--dir", &ca], 2, "EU", "eu-west"),
        (&["ca", "issue", "eu-west", "--dir", &none], 70, "no authority", "ca init"),
        (&["bench", "--seconds", "0"], 2, "0", "--help"),
        (&["bench", "--scenario", "zzz"], 2, "no scenario zzz", "--help"),
    ];
    for (arguments, code, wrong, instead) in table {
        let exit = run(arguments).await;
        assert_eq!(exit.code, code, "{arguments:?}: {exit:?}");
        assert!(exit.err.contains(wrong) && exit.err.contains(instead), "{arguments:?}: {exit:?}");
        assert!(exit.out.is_empty(), "{arguments:?}: {exit:?}");
        let told = run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(told.code, code, "{arguments:?}: {told:?}");
        let line = told.json();
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        assert!(line["error"] == code && text("message").contains(wrong), "{arguments:?}: {told:?}");
        assert!(!text("hint").is_empty() && told.out.lines().count() == 1, "{arguments:?}: {told:?}");
    }
    let checked = run(&["config", "check", &bad]).await;
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.out.contains("bad.toml:1:") && checked.out.contains("help:"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_mesh_is_refused_with_a_reason() {
    let (mesh, other) = (Mesh::quick(&["--regions", "one"]).await, Mesh::quick(&["--regions", "two"]).await);
    let foreign = other.token("ann", 0).await;
    for token in [foreign.as_str(), "no.such.token"] {
        let base = &mesh.regions[0].http;
        let answer = chaos_tests::web::call(base, "GET", "/api/v1/conversations", None, Some(token), &[]).await;
        assert_eq!((answer.status, &answer.body["error"]), (401, &serde_json::json!("UNAUTHORIZED")), "{answer:?}");
        assert!(answer.body["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    }
    mesh.end().await;
    other.end().await;
}
