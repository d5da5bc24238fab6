//! The tables are made once, by one process, and refused where another version made them.

use region_postgres::{Error, Projection, migrate};

use crate::Schema;
use crate::lines::region;

async fn numbers(schema: &Schema, dry_run: bool) -> Vec<i32> {
    let made = migrate(&schema.0, dry_run).await.unwrap_or_else(|error| panic!("{error}"));
    made.iter().map(|migration| migration.number).collect()
}

#[tokio::test]
async fn a_dry_run_names_what_a_schema_lacks_and_makes_nothing_and_the_second_migration_has_nothing_to_do() {
    let schema = Schema::new();
    assert_eq!((numbers(&schema, true).await, numbers(&schema, true).await), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!(numbers(&schema, false).await, [1, 2, 3]);
    assert_eq!((numbers(&schema, true).await, numbers(&schema, false).await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_start_at_once_one_makes_the_tables() {
    let schema = Schema::new();
    let all = (0..6).map(|_| numbers(&schema, false));
    let made = futures_util::future::join_all(all).await;
    assert_eq!(made.into_iter().flatten().collect::<Vec<_>>(), [1, 2, 3]);
    schema.open().await;
}

#[tokio::test]
async fn a_schema_of_a_newer_version_and_one_of_another_region_are_refused() {
    let schema = Schema::new();
    schema.open().await;
    let other = Projection::open(&schema.0, &region("us")).await;
    assert!(matches!(other, Err(Error::Region { found, .. }) if found == "eu"));
    let client = schema.client().await;
    client.batch_execute("INSERT INTO migrations (number, name) VALUES (4711, 'of tomorrow')").await.expect("inserts");
    let newer = Projection::open(&schema.0, &region("eu")).await;
    assert!(matches!(newer, Err(Error::Version { found: 4711, known: 3 })));
    assert!(matches!(migrate(&schema.0, true).await, Err(Error::Version { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_and_a_database_that_is_not_there_are_told_apart() {
    let mut schema = Schema::new();
    schema.0.database = "no_such_database".to_owned();
    let login = Projection::open(&schema.0, &region("eu")).await;
    assert!(matches!(&login, Err(Error::Login { .. })), "{login:?}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    schema.0.port = free.port();
    let server = Projection::open(&schema.0, &region("eu")).await;
    assert!(matches!(&server, Err(Error::Server { .. })), "{server:?}");
    schema.0 = Schema::new().0.clone();
}
