//! A statement that takes too long ends: by the server's clock, by ours, and when nobody waits for it any more.

use std::time::Duration;

use region_postgres::{Error, PostgresOptions, Sweep};
use tokio_postgres::Client;

use crate::lines::Line;
use crate::tables::{folded, found};
use crate::{Region, Schema, catch_up};

/// Somebody holds the lock that every batch takes.
async fn held(schema: &Schema) -> Client {
    let client = schema.client().await;
    let key = format!("hearth projection of {}", schema.0.schema);
    client.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", &[&key]).await.expect("locks");
    client
}

/// Waits until no statement of the projection waits for that lock.
async fn none_waits(client: &Client, schema: &Schema) {
    let query = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
      WHERE l.locktype = 'advisory' AND NOT l.granted AND a.application_name = 'hearth' \
      AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended($1, 0)";
    let key = format!("hearth projection of {}", schema.0.schema);
    for _ in 0..200 {
        if client.query_one(query, &[&key]).await.expect("reads").get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a statement goes on at the server");
}

async fn region_of(line: &Line) -> Region {
    let region = Region::new();
    region.put(line, None).await;
    region
}

#[tokio::test]
async fn the_server_ends_a_statement_that_takes_longer_than_its_timeout_and_the_next_call_is_served() {
    let mut schema = Schema::new();
    schema.0.statement_timeout = Duration::from_millis(200);
    let line = Line::group(1);
    let (projection, region) = (schema.open().await, region_of(&line).await);
    let other = held(&schema).await;
    let ended = projection.catch_up(&region.source, Sweep::All, &mut |_| {}).await;
    let Err(Error::Ended { reason, .. }) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("57014") && reason.contains("statement timeout"), "{reason}");
    drop(other);
    catch_up(&projection, &region).await;
    assert_eq!(found(&schema.client().await).await, folded([&line]));
}

#[tokio::test]
async fn a_call_that_exceeds_its_deadline_is_ended_at_the_server_and_none_of_it_is_done() {
    let mut schema = Schema::new();
    let line = Line::group(1);
    schema.open().await;
    schema.0 = PostgresOptions { deadline: Duration::from_millis(300), connections: 1, ..schema.0.clone() };
    let (projection, region) = (schema.open().await, region_of(&line).await);
    let other = held(&schema).await;
    let late = projection.catch_up(&region.source, Sweep::All, &mut |_| {}).await;
    assert!(matches!(late, Err(Error::Late { after, .. }) if after == Duration::from_millis(300)), "{late:?}");
    none_waits(&other, &schema).await;
    assert!(found(&other).await.is_empty());
    drop(other);
    catch_up(&projection, &region).await;
    assert_eq!(found(&schema.client().await).await, folded([&line]));
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_ended_at_the_server() {
    let schema = Schema::new();
    let line = Line::group(1);
    let (projection, region) = (schema.open().await, region_of(&line).await);
    let other = held(&schema).await;
    let mut tell = |_: &region_postgres::Pass| {};
    let dropped = projection.catch_up(&region.source, Sweep::All, &mut tell);
    tokio::time::timeout(Duration::from_millis(200), dropped).await.expect_err("it waits for the lock");
    none_waits(&other, &schema).await;
    drop(other);
    catch_up(&projection, &region).await;
    assert_eq!(found(&schema.client().await).await, folded([&line]));
}
