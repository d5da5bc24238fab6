//! Exit codes and the ready line, which scripts rely on.

use std::time::Duration;

use chaos_tests::Mesh;
use chaos_tests::mesh::run;
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
