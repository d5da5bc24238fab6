//! A user is erased: its profile, and what it wrote in each of its conversations, by an entry that the home of each
//! sequences. Every copy learns of it as of any entry, whenever it is back; what a region out of reach holds for its home
//! comes later, so that the verb is not done before all regions are in reach.

use futures_util::stream::{self, StreamExt};
use hearth_protocol::{ConversationId, Refusal, RegionId, UserId};
use region_core::{UserFound, UserTraces};
use region_model::region_map::RegionState;

use super::change::{Made, Refused, Teller};
use super::moves::names;
use super::node::AdminNode;

/// Conversations at a time.
const AT_ONCE: usize = 32;
/// Conversations between two lines of progress.
const TELL_EVERY: usize = 50;

/// Erases a user, or says what that would do.
pub(super) async fn user(node: &AdminNode, user: &UserId, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let traces = traces(node, user).await?;
    let away = out_of_reach(node);
    let total = traces.conversations.len();
    if dry {
        tell.plan(format!("erase the profile of {user}"));
        tell.plan(format!("forget what {user} wrote in {total} conversations; rows, positions and hashes stay"));
        if !away.is_empty() {
            tell.plan(format!("fail at the end: {} out of reach, and may hold sends of {user}", names(&away)));
        }
        return Ok(Made::already("nothing was changed: this was a dry run").count("conversations", total as u64));
    }
    let profile = node.handle.erase(user, None).await.map_err(|refusal| not_erased(&refusal))?;
    let Told { changed, left } = forget(node, user, traces.conversations, tell).await;
    if let Some(refusal) = left.first() {
        let message = format!("{} of {total} conversations of {user} are not erased: {}", left.len(), refusal.message);
        return Err(Refused::failed(
            message,
            "what was erased stays so; once their homes are in reach, type the same again",
        ));
    }
    if !away.is_empty() {
        let message = format!("{} out of reach: what was sent there by {user} may come later", names(&away));
        return Err(Refused::failed(message, "what was erased stays so; once it is back, type the same again"));
    }
    let text = format!(
        "{user} is erased in {total} conversations: nobody is shown what it wrote, and the next sweep of each region takes it out of the files"
    );
    let made = if profile || changed > 0 { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("conversations", total as u64).count("changed", changed))
}

async fn traces(node: &AdminNode, user: &UserId) -> Result<UserTraces, Refused> {
    match node.handle.traces_of(user).await.map_err(|refusal| not_erased(&refusal))? {
        UserFound::Here(traces) => Ok(traces),
        UserFound::At(home) => Err(Refused::ask_at(&home, format!("the record of {user} is at {home}"))),
        UserFound::Nobody => {
            Err(Refused::because(format!("the mesh knows no user {user}"), "look at the id; it is as tokens name it"))
        }
    }
}

/// Regions of the mesh that this node does not reach. One that is fenced may come back with what it holds.
fn out_of_reach(node: &AdminNode) -> Vec<RegionId> {
    let map = node.map_state();
    let away = map.members().filter(|entry| entry.state == RegionState::Fenced || !node.is_up(&entry.region));
    away.map(|entry| entry.region.clone()).collect()
}

struct Told {
    /// Conversations with something to forget.
    changed: u64,
    left: Vec<Refusal>,
}

async fn forget(node: &AdminNode, user: &UserId, conversations: Vec<ConversationId>, tell: &Teller) -> Told {
    let total = conversations.len();
    let asked = stream::iter(conversations).map(|conversation| node.handle.erase(user, Some(conversation)));
    let mut answers = Box::pin(asked.buffer_unordered(AT_ONCE));
    let (mut told, mut ended) = (Told { changed: 0, left: Vec::new() }, 0);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(changed) => told.changed += u64::from(changed),
            Err(refusal) => told.left.push(refusal),
        }
        ended += 1;
        if ended % TELL_EVERY == 0 || ended == total {
            tell.progress(
                "conversations",
                ended as u64,
                Some(total as u64),
                format!("{ended} of {total} conversations"),
            );
        }
    }
    told
}

fn not_erased(refusal: &Refusal) -> Refused {
    Refused::failed(refusal.message.to_string(), "look at it: hearth region status; then type the same again")
}
