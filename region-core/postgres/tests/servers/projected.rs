//! The tables say what the fold of the logs says, whatever happens to the logs.

use std::sync::OnceLock;

use hearth_protocol::Timestamp;
use hearth_protocol::record::{CursorRecord, LogRecord, Reached};
use proptest::prelude::*;
use region_model::ports::{Begin, LogAppend};
use region_model::view::View;
use region_postgres::{Pass, Projection};
use tokio::runtime::Runtime;

use crate::lines::{Line, Step, conversation, of_conversation, of_user, user};
use crate::tables::{folded, found};
use crate::{Region, Schema, catch_up, first_epoch};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("makes a runtime"))
}

/// What happens to a log: entries come, or a failover takes some of the last ones away first.
type Turn = (Vec<Step>, Option<u8>);

fn turns(step: impl Strategy<Value = Step> + 'static) -> impl Strategy<Value = Vec<Turn>> {
    let turn = (proptest::collection::vec(step, 0..12), proptest::option::weighted(0.3, 0u8..20));
    proptest::collection::vec(turn, 1..5)
}

async fn play(region: &Region, line: &mut Line, (steps, lost): &Turn) {
    let apart =
        lost.filter(|_| line.entries.len() > 1).map(|lost| 1.max(line.entries.len().saturating_sub(lost.into())));
    if let Some(first) = apart {
        line.fork(first);
    }
    steps.iter().for_each(|step| line.step(step));
    region.put(line, apart).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_projection_of_random_lines_is_what_their_fold_says_after_every_turn(
        talk in turns(of_conversation()),
        record in turns(of_user()),
    ) {
        runtime().block_on(async move {
            let (schema, region) = (Schema::new(), Region::new());
            let (projection, client) = (schema.open().await, schema.client().await);
            let mut lines = [Line::group(1), Line::record_of(0)];
            for line in &lines {
                region.put(line, None).await;
            }
            let none = (Vec::new(), None);
            for turn in 0..talk.len().max(record.len()) {
                play(&region, &mut lines[0], talk.get(turn).unwrap_or(&none)).await;
                play(&region, &mut lines[1], record.get(turn).unwrap_or(&none)).await;
                let pass = catch_up(&projection, &region).await;
                assert_eq!(pass.behind, 0);
                assert_eq!(found(&client).await, folded(&lines));
            }
            // A process that starts has no view in memory.
            lines[0].step(&Step::Add(3, true));
            region.put(&lines[0], None).await;
            catch_up(&schema.open().await, &region).await;
            assert_eq!(found(&client).await, folded(&lines));
        });
    }
}

#[tokio::test]
async fn what_is_projected_already_is_not_read_or_written_again() {
    let (schema, region) = (Schema::new(), Region::new());
    let projection = schema.open().await;
    let mut line = Line::group(1);
    (0..20).for_each(|_| line.step(&Step::Message(1)));
    region.put(&line, None).await;
    let first = catch_up(&projection, &region).await;
    assert_eq!((first.written, first.anew, first.entries), (1, 1, 21));
    let again = catch_up(&projection, &region).await;
    assert_eq!(again, Pass { logs: 1, ..Pass::default() });
    assert_eq!(catch_up(&schema.open().await, &region).await, again, "nor by another process");
    line.step(&Step::Message(0));
    region.put(&line, None).await;
    let more = catch_up(&projection, &region).await;
    assert_eq!((more.written, more.anew, more.entries), (1, 0, 2), "the last one, by its hash, and the new one");
}

#[tokio::test]
async fn nothing_above_the_mark_is_projected() {
    let (schema, region) = (Schema::new(), Region::new());
    let (projection, client) = (schema.open().await, schema.client().await);
    let mut line = Line::group(1);
    region.put_marked(&line, None, 0).await;
    catch_up(&projection, &region).await;
    assert!(found(&client).await.is_empty());
    let shown = line.clone();
    line.step(&Step::Add(5, true));
    region.put_marked(&line, None, 1).await;
    catch_up(&projection, &region).await;
    assert_eq!(found(&client).await, folded([&shown]));
    region.stores.log.put_marks(vec![(line.log, 2)]).await.expect("marks");
    catch_up(&projection, &region).await;
    assert_eq!(found(&client).await, folded([&line]));
}

#[tokio::test]
async fn a_log_on_another_line_of_the_same_length_is_projected_anew_and_a_log_that_is_gone_goes() {
    let (schema, region) = (Schema::new(), Region::new());
    let (projection, client) = (schema.open().await, schema.client().await);
    let (mut line, other, record) = (Line::group(1), Line::group(2), Line::record_of(0));
    line.step(&Step::Add(2, false));
    line.step(&Step::Add(3, false));
    for line in [&line, &other, &record] {
        region.put(line, None).await;
    }
    assert_eq!(catch_up(&projection, &region).await.anew, 3);
    line.fork(2);
    line.step(&Step::Add(4, true));
    region.put(&line, Some(2)).await;
    let pass = catch_up(&projection, &region).await;
    assert_eq!((pass.anew, pass.written, pass.behind), (1, 1, 0));
    assert_eq!(found(&client).await, folded([&line, &other, &record]));
    region.stores.log.remove(other.log).await.expect("removes");
    region.stores.log.remove(record.log).await.expect("removes");
    assert_eq!(catch_up(&projection, &region).await.forgotten, 2);
    assert_eq!(found(&client).await, folded([&line]));
}

#[tokio::test]
async fn a_follower_that_lacks_older_entries_projects_what_they_add_up_to_and_a_rebuild_fills_what_they_say_once_they_are_here()
 {
    let (schema, region) = (Schema::new(), Region::new());
    let (projection, client) = (schema.open().await, schema.client().await);
    let mut line = Line::group(1);
    for who in 2..6 {
        line.step(&Step::Add(who, false));
        line.step(&Step::Message(who));
    }
    line.step(&Step::Remove(1));
    let mut view = View::Empty;
    line.entries[..6].iter().for_each(|entry| view.fold(entry));
    let open = LogRecord { open_ranges: vec![(0, 6)], ..line.record() };
    region
        .append(LogAppend {
            begin: Some(Begin { dropped: 0..0, at: 6 }),
            snapshot: Some((6, view.snapshot())),
            ..region.change(&line, 0, 6, open)
        })
        .await;
    let pass = catch_up(&projection, &region).await;
    assert_eq!((pass.written, pass.behind, pass.entries), (1, 0, 4));
    let members = "SELECT concat_ws('|', user_id, role, since) FROM conversation_members ORDER BY user_id";
    let whole = ["user0|admin|0", "user2|member|1", "user3|member|3", "user4|member|5", "user5|member|7"];
    let rows = client.query(members, &[]).await.expect("reads");
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), whole);
    let mut filled = region.change(&line, line.length(), line.entries.len(), line.record());
    filled.filled = line.entries[..6].to_vec();
    region.append(filled).await;
    line.step(&Step::Add(7, true));
    region.put(&line, None).await;
    assert_eq!(catch_up(&projection, &region).await.anew, 0);
    region_postgres::rebuild(&schema.0, &crate::lines::region("eu"), &region.source, &mut |_| {})
        .await
        .expect("rebuilds");
    assert_eq!(found(&client).await, folded([&line]));
}

fn cursor(line: &Line, who: u8, delivered: u64, read: u64) -> CursorRecord {
    let reached = |up_to| vec![Reached { epoch: first_epoch(), up_to, at: Timestamp(9_000) }];
    CursorRecord { log: line.log, user: user(who), delivered: reached(delivered), read: reached(read) }
}

async fn cursors(client: &tokio_postgres::Client) -> Vec<(String, i64, i64)> {
    let query = "SELECT user_id, delivered, read FROM cursors ORDER BY user_id";
    client.query(query, &[]).await.expect("reads").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn cursors_are_those_of_the_store_cut_to_the_present_line() {
    let (schema, region) = (Schema::new(), Region::new());
    let (projection, client) = (schema.open().await, schema.client().await);
    let mut line = Line::group(1);
    (0..5).for_each(|_| line.step(&Step::Message(1)));
    region.put(&line, None).await;
    let of = |who: u8, delivered, read| (user(who).to_string(), delivered, read);
    region.stores.cursors.put_cursors(vec![cursor(&line, 0, 5, 3), cursor(&line, 1, 4, 4)]).await.expect("puts");
    catch_up(&projection, &region).await;
    assert_eq!(cursors(&client).await, [of(0, 5, 3), of(1, 4, 4)]);
    region.stores.cursors.put_cursors(vec![cursor(&line, 0, 5, 5)]).await.expect("puts");
    let pass = catch_up(&projection, &region).await;
    assert_eq!((cursors(&client).await, pass.entries), (vec![of(0, 5, 5), of(1, 4, 4)], 0), "no entry is read for it");
    for _ in 0..2 {
        catch_up(&projection, &region).await;
    }
    assert_eq!(catch_up(&projection, &region).await.written, 0, "and nothing is written when none moved");
    line.fork(4);
    region.put(&line, Some(4)).await;
    catch_up(&projection, &region).await;
    assert_eq!(cursors(&client).await, [of(0, 3, 3), of(1, 3, 3)]);
}

#[tokio::test]
async fn a_change_feed_has_what_the_last_changes_of_the_store_say() {
    let (schema, region) = (Schema::new(), Region::new());
    let (projection, client) = (schema.open().await, schema.client().await);
    let mut record = Line::record_of(1);
    [1, 2, 3].into_iter().for_each(|number| record.step(&Step::Joined(number)));
    record.step(&Step::Removed(3));
    let lines = [Line::group(1), Line::group(3), record];
    for line in &lines {
        region.put(line, None).await;
    }
    region
        .stores
        .cursors
        .put_cursors(vec![cursor(&lines[0], 1, 1, 1), cursor(&lines[0], 0, 1, 1)])
        .await
        .expect("puts");
    catch_up(&projection, &region).await;
    let query = "SELECT conversation_id, change FROM change_feed WHERE user_id = $1 ORDER BY conversation_id";
    let rows = client.query(query, &[&user(1).as_str()]).await.expect("reads");
    let feed: Vec<(uuid::Uuid, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let logs = vec![lines[0].log, hearth_protocol::LogId::conversation(conversation(2))];
    let changes = region.stores.last_changes.last_changes(&user(1), logs.clone()).await.expect("reads");
    let changes = changes.into_iter().map(|change| i64::try_from(change.unwrap_or(0)).expect("small"));
    assert_eq!(feed, logs.into_iter().map(|log| log.id).zip(changes).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_project_at_once_write_what_one_would() {
    let (schema, region) = (Schema::new(), Region::new());
    let client = schema.open().await;
    drop(client);
    let client = schema.client().await;
    let mut lines: Vec<Line> = (1..60).map(Line::group).collect();
    let projections: Vec<Projection> = vec![schema.open().await, schema.open().await, schema.open().await];
    for turn in 0..4u8 {
        for (place, line) in lines.iter_mut().enumerate() {
            let apart = (turn > 0 && place % 7 == 0).then(|| line.entries.len() - 1);
            apart.into_iter().for_each(|first| line.fork(first));
            line.step(&Step::Add(2 + turn, false));
            line.step(&Step::Message(turn));
            region.put(line, apart).await;
        }
        let passes = projections.iter().map(|projection| catch_up(projection, &region));
        let written: u64 = futures_util::future::join_all(passes).await.iter().map(|pass| pass.written).sum();
        // What one has written the others left: each log once, and once more where its numbers of cursors moved.
        assert!(written >= 59, "{written}");
        for projection in &projections {
            catch_up(projection, &region).await;
        }
        assert_eq!(found(&client).await, folded(&lines));
    }
}

#[tokio::test]
async fn with_another_store_all_logs_are_looked_at_again() {
    let schema = Schema::new();
    let (projection, client) = (schema.open().await, schema.client().await);
    let line = Line::group(1);
    let region = Region::new();
    region.put(&line, None).await;
    catch_up(&projection, &region).await;
    let mut other = Region::new();
    other.source.store = uuid::Uuid::from_u128(99);
    let mut fresh = line.clone();
    fresh.step(&Step::Message(0));
    other.put(&fresh, None).await;
    catch_up(&projection, &other).await;
    assert_eq!(found(&client).await, folded([&fresh]));
}
