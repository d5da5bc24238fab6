//! A projection made anew: beside the old one, and whole or not at all.

use region_postgres::{Error, Pass, plan, rebuild};
use region_store::memory::{Call, Fault};

use crate::lines::{Line, Step, region};
use crate::tables::{folded, found};
use crate::{Region, Schema, catch_up};

fn lines(count: u8) -> Vec<Line> {
    let mut lines: Vec<Line> = (1..=count).flat_map(|number| [Line::group(number), Line::record_of(number)]).collect();
    lines.iter_mut().step_by(2).for_each(|line| line.step(&Step::Add(4, true)));
    lines
}

async fn filled(lines: &[Line]) -> Region {
    let region = Region::new();
    for line in lines {
        region.put(line, None).await;
    }
    region
}

async fn made_anew(schema: &Schema, from: &Region) -> Result<Pass, Error> {
    rebuild(&schema.0, &region("eu"), &from.source, &mut |_| {}).await
}

async fn schemas(schema: &Schema) -> i64 {
    let query = "SELECT count(*) FROM pg_namespace WHERE nspname::text IN ($1, $1 || '_rebuild')";
    schema.client().await.query_one(query, &[&schema.0.schema]).await.expect("reads").get(0)
}

#[tokio::test]
async fn a_rebuild_gives_what_the_fold_says_whatever_the_tables_held_and_readers_keep_their_rights() {
    let (schema, lines) = (Schema::new(), lines(5));
    let region = filled(&lines).await;
    let projection = schema.open().await;
    catch_up(&projection, &region).await;
    let client = schema.client().await;
    let name = &schema.0.schema;
    client.batch_execute("DELETE FROM conversations; UPDATE users SET display_name = 'wrong'").await.expect("spoils");
    client.batch_execute(&format!("GRANT SELECT ON {name}.users TO PUBLIC")).await.expect("grants");
    assert_eq!(catch_up(&projection, &region).await.written, 0, "what stands is believed");
    let pass = made_anew(&schema, &region).await.expect("rebuilds");
    assert_eq!((pass.written, pass.anew), (10, 10));
    assert_eq!(found(&client).await, folded(&lines));
    let right =
        "SELECT count(*) FROM information_schema.role_table_grants WHERE table_schema = $1 AND grantee = 'PUBLIC'";
    assert_eq!(client.query_one(right, &[name]).await.expect("reads").get::<_, i64>(0), 1);
    assert_eq!(schemas(&schema).await, 1, "the schema beside it is gone");
    assert_eq!(catch_up(&projection, &region).await.written, 0, "a follower goes on where the rebuild ended");
}

#[tokio::test]
async fn a_rebuild_that_is_interrupted_leaves_the_old_rows_and_goes_on_where_it_was() {
    let (schema, lines) = (Schema::new(), lines(8));
    let region = filled(&lines).await;
    catch_up(&schema.open().await, &region).await;
    let client = schema.client().await;
    client.batch_execute("UPDATE users SET display_name = 'old'").await.expect("marks");
    let old = found(&client).await;
    // Users are written, and then the store fails.
    region.memory.fail_next(Call::Cursors, Fault::LostCall);
    assert!(matches!(made_anew(&schema, &region).await, Err(Error::Store(_))));
    assert_eq!(found(&client).await, old);
    let begun = plan(&schema.0, &region.source).await.expect("plans");
    assert_eq!((begun.begun, begun.users, begun.conversations, begun.projected), (true, 8, 8, 16));
    let beside = format!("SELECT count(*) FROM {}_rebuild.projected", schema.0.schema);
    assert_eq!(client.query_one(&beside, &[]).await.expect("reads").get::<_, i64>(0), 8);
    region.memory.fail_next(Call::Cursors, Fault::LostCall);
    let mut seen = Pass::default();
    let again = rebuild(&schema.0, &crate::lines::region("eu"), &region.source, &mut |pass| seen = *pass).await;
    assert!(matches!(again, Err(Error::Store(_))));
    assert_eq!((seen.logs, seen.written, seen.entries), (8, 0, 0), "it goes on behind what it wrote");
    // Ended in the middle, as by a signal.
    for patience in [1, 5, 20] {
        let ended = made_anew(&schema, &region);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(patience), ended).await;
        let now = found(&client).await;
        assert!(now == old || now == folded(&lines), "one or the other, whole");
    }
    // The server lets go of the lock of what was ended a moment later.
    while let Err(error) = made_anew(&schema, &region).await {
        assert!(matches!(error, Error::Busy(_)), "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(found(&client).await, folded(&lines));
    assert_eq!(schemas(&schema).await, 1);
}

#[tokio::test]
async fn a_plan_changes_nothing_and_two_rebuilds_at_once_are_one() {
    let (schema, lines) = (Schema::new(), lines(3));
    let region = filled(&lines).await;
    let planned = plan(&schema.0, &region.source).await.expect("plans");
    assert_eq!((planned.migrations.len(), planned.users, planned.conversations, planned.entries), (3, 3, 3, 9));
    assert_eq!(schemas(&schema).await, 0);
    schema.open().await;
    let key = format!("hearth rebuild of {}", schema.0.schema);
    let other = schema.client().await;
    other.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", &[&key]).await.expect("locks");
    assert!(matches!(made_anew(&schema, &region).await, Err(Error::Busy(_))));
    other.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", &[&key]).await.expect("unlocks");
    made_anew(&schema, &region).await.expect("rebuilds");
    assert_eq!(found(&schema.client().await).await, folded(&lines));
}
