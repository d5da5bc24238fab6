//! A region whose metadata are projected into PostgreSQL (`./services up postgresql`), by a binary with the feature
//! `postgres`.

use std::time::{Duration, Instant};

use chaos_tests::site::{Door, Keys, free_port};
use chaos_tests::{Served, Site, new_id, run, until};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls};

use crate::{PATIENCE, session};

fn server() -> String {
    std::env::var("HEARTH_POSTGRESQL").unwrap_or_else(|_| "127.0.0.1:19032".into())
}

pub(crate) async fn connect() -> Client {
    let server = server();
    let (host, port) = server.rsplit_once(':').expect("HEARTH_POSTGRESQL is host:port");
    let text = format!("host={host} port={port} user=hearth dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.expect("type: ./services up postgresql");
    tokio::spawn(connection);
    client
}

/// The way to the server, once it is there.
async fn forward(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    while let Ok((mut here, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut there = TcpStream::connect(server()).await.expect("the server is there");
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        });
    }
}

/// How many schemas carry an id in their names.
pub(crate) async fn schemas(client: &Client, id: &str) -> i64 {
    let asked = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'dev_' || $1 || '_%'";
    client.query_one(asked, &[&id]).await.expect("counted").get(0)
}

/// The members of a conversation, and its last number; nothing while there are no tables.
async fn projected(client: &Client, schema: &str, group: &str) -> (Vec<String>, i64) {
    let members =
        format!("SELECT user_id FROM {schema}.conversation_members WHERE conversation_id::text = $1 ORDER BY 1");
    let last = format!("SELECT coalesce(max(last_sequence), 0) FROM {schema}.conversations WHERE id::text = $1");
    let members = client.query(&members, &[&group]).await.unwrap_or_default();
    let last = client.query_one(&last, &[&group]).await.map_or(0, |row| row.get(0));
    (members.iter().map(|row| row.get(0)).collect(), last)
}

pub(crate) async fn until_projected(client: &Client, schema: &str, group: &str, wanted: (&[&str], i64)) {
    let began = Instant::now();
    loop {
        let found = projected(client, schema, group).await;
        if (found.0.iter().map(String::as_str).collect::<Vec<_>>(), found.1) == (wanted.0.to_vec(), wanted.1) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_serves_while_its_postgresql_is_away_projects_when_it_is_there_and_a_rebuild_mends_spoiled_rows() {
    let (client, port, id) = (connect().await, free_port(), new_id().replace('-', ""));
    let schema = format!("story_{}", &id[20..]);
    let settings = format!(
        "[store.postgres]\nhost = \"127.0.0.1\"\nport = {port}\ndatabase = \"postgres\"\nusername = \"hearth\"\n\
         schema = \"{schema}\"\nevery = \"200ms\"\n"
    );
    let site = Site::of(&[Door::Plain], Keys::Secret, &settings).await;
    let config = site.config(0).to_string_lossy().into_owned();
    let served = Served::start(&site, 0).await;
    let group = site.group_of("ann", &["bob", "cem"]).await;
    let ann = session(&site, "ann", 0).await;
    for number in 0..5 {
        ann.say(&group, &format!("text {number}")).await;
    }
    assert_eq!(projected(&client, &schema, &group).await, (Vec::new(), 0), "nobody lets it in yet");
    let way = tokio::spawn(forward(port));
    until_projected(&client, &schema, &group, (&["ann", "bob", "cem"], 5)).await;

    let (rows, statements) = ("hearth_metadata_rows_total", "hearth_metadata_statements_total");
    // Told at the end of the pass whose rows are there.
    until("what it cost is told", PATIENCE, || async {
        site.metric(0, rows).await > 0.0 && site.metric(0, statements).await > 0.0
    })
    .await;
    let running = run(&["rebuild", "metadata", "--json", "--config", &config]).await;
    assert_eq!(running.code, 70, "the store has one user: {running:?}");
    drop(ann);
    served.end().await;
    let spoil =
        format!("DELETE FROM {schema}.conversation_members; UPDATE {schema}.conversations SET last_sequence = 1");
    client.batch_execute(&spoil).await.expect("spoiled");
    let plan = run(&["rebuild", "metadata", "--dry-run", "--json", "--config", &config]).await;
    assert_eq!((plan.code, &plan.json()["plan"]["conversations"]), (0, &serde_json::json!(1)), "{plan:?}");
    assert_eq!(projected(&client, &schema, &group).await, (Vec::new(), 1), "a dry run mends nothing");
    let rebuilt = run(&["rebuild", "metadata", "--json", "--config", &config]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    until_projected(&client, &schema, &group, (&["ann", "bob", "cem"], 5)).await;
    way.abort();
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.expect("dropped");
}
