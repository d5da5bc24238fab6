//! Answers calls: here where the log is held (reads) or has its home (writes), else passed on once.

use std::sync::Arc;

use hearth_protocol::client::Submission;
use hearth_protocol::entry::{ConversationKind, MemberAction, Privacy, Role, SettingsChange};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::rest::{ApiAnswer, ConversationRow, CreateGroup, PatchConversation, PatchUser};
use hearth_protocol::{
    Change, ConversationId, EntryKind, ErrorCode, Header, Level, LogId, Refusal, RegionId, Slot, UserId, limits, mesh,
};
use region_model::view::default_settings;
use region_model::{Command, LogView};
use uuid::Uuid;

use crate::call::ApiCall;
use crate::reads::{check_mode, has_rows_of};
use crate::region::Region;

/// What a region says whose answer cannot be read.
pub(crate) fn unreadable() -> Refusal {
    Refusal::new(ErrorCode::Internal, "a region's answer does not read")
}

/// The refusal that another region answered with.
pub(crate) fn refusal_of(answer: &ApiAnswer) -> Refusal {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| unreadable())
}

/// Somebody else has to be asked, and is not in reach.
pub(crate) fn no_holder() -> Refusal {
    Refusal::new(ErrorCode::HomeUnreachable, "no region that holds this is in reach").with_retry_after(5)
}

impl Region {
    /// Answers a call of a client of this region.
    pub(crate) async fn api(self: &Arc<Self>, user: &UserId, call: ApiCall) -> ApiAnswer {
        self.answer(user, call, true).await.unwrap_or_else(ApiAnswer::from)
    }

    /// Answers a call that a peer passed on. It is never passed on again.
    pub(crate) fn answer_peer(self: &Arc<Self>, peer: RegionId, request_id: u64, call: mesh::ApiCall) {
        let region = self.clone();
        tokio::spawn(async move {
            let asked = serde_json::from_slice::<ApiCall>(&call.call);
            let of_its_kind = match &asked {
                Ok(ApiCall::AddMembers { .. }) => &region.proxied_joins,
                _ => &region.proxied,
            };
            let answer = match (of_its_kind.try_acquire(), UserId::new(&call.user), asked) {
                (Ok(_permit), Ok(user), Ok(call)) => region.api_here(&user, call).await,
                (Err(_), ..) => Refusal::new(ErrorCode::Overloaded, "too many calls").with_retry_after(1).into(),
                _ => Refusal::invalid("a call that this region cannot read").into(),
            };
            let status = u32::from(answer.status);
            region.respond(&peer, mesh::Response { request_id, status, body: answer.body });
        });
    }

    /// Answers a call that another region passed on.
    pub(crate) async fn api_here(self: &Arc<Self>, user: &UserId, call: ApiCall) -> ApiAnswer {
        self.answer(user, call, false).await.unwrap_or_else(ApiAnswer::from)
    }

    /// Whether reads of a log can be answered from this region: it votes, or has all that the home told of.
    pub(crate) fn holds(&self, view: &LogView) -> bool {
        view.is_read_at(self.me())
    }

    /// Passes a call on to the home, or to another voter when the home is out of reach.
    pub(crate) async fn pass_on(
        &self,
        view: &LogView,
        user: &UserId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        if view.placement.is_none() {
            return Err(Refusal::no_conversation());
        }
        match view.holders(self.me()).find(|region| self.links.is_up(region)) {
            Some(region) if pass_on => Ok(self.proxy(region, user, call).await),
            _ => Err(no_holder()),
        }
    }

    async fn answer(self: &Arc<Self>, user: &UserId, call: ApiCall, pass_on: bool) -> Result<ApiAnswer, Refusal> {
        self.while_there(self.answer_call(user, call, pass_on)).await
    }

    async fn answer_call(self: &Arc<Self>, user: &UserId, call: ApiCall, pass_on: bool) -> Result<ApiAnswer, Refusal> {
        match &call {
            ApiCall::CreateDirect { other } => self.create_direct(user, other.clone(), pass_on).await,
            ApiCall::CreateGroup { group, key, keyed } => {
                self.create_group(user, group, *key, *keyed, &call, pass_on).await
            }
            ApiCall::Feed { cursor, limit } => self.feed(user, cursor.as_deref(), *limit, &call, pass_on).await,
            ApiCall::User { id } => self.user(user, id, &call, pass_on).await,
            ApiCall::PatchMe { patch } => self.patch_me(user, patch, &call, pass_on).await,
            ApiCall::Block { user: other, blocked } => self.block(user, (other, *blocked), &call, pass_on).await,
            ApiCall::BlockedSince { other } => self.tell_blocked_since(user, other).await,
            ApiCall::Sync { request } => Ok(ApiAnswer::json(200, &self.sync(user, request.clone(), pass_on).await?)),
            ApiCall::SetPreferences { id, patch } => self.set_preferences(user, *id, patch, &call, pass_on).await,
            ApiCall::SubscribePush { subscription } => self.subscribe_push(user, subscription, &call, pass_on).await,
            ApiCall::UnsubscribePush { id } => self.unsubscribe_push(user, *id, &call, pass_on).await,
            ApiCall::PushSubscriptions => self.push_subscriptions(user, &call, pass_on).await,
            ApiCall::Delivery(call) => self.delivery_call(user, call, pass_on).await,
            ApiCall::CreateMedia { .. }
            | ApiCall::MediaLink { .. }
            | ApiCall::MediaGiven { .. }
            | ApiCall::MediaShown { .. }
            | ApiCall::MediaTrace { .. }
            | ApiCall::Member { .. } => self.answer_about_media(user, &call, pass_on).await,
            ApiCall::Conversation { id }
            | ApiCall::Members { id, .. }
            | ApiCall::History { id, .. }
            | ApiCall::Edits { id, .. } => self.read_conversation(user, *id, &call, pass_on).await,
            ApiCall::AddMembers { id, .. }
            | ApiCall::RemoveMember { id, .. }
            | ApiCall::SetRole { id, .. }
            | ApiCall::PatchConversation { id, .. } => self.write_conversation(user, *id, &call, pass_on).await,
        }
    }

    async fn read_conversation(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let view = self.view(LogId::conversation(id), true).await?;
        check_mode(&view, user)?;
        let counts = matches!(call, ApiCall::Conversation { .. });
        let read = if counts { self.read_up_to(id, &view, user).await? } else { 0 };
        if !self.holds(&view) || !has_rows_of(&view, user, call, read) {
            return self.pass_on(&view, user, call, pass_on).await;
        }
        match call {
            ApiCall::Members { cursor, limit, .. } => {
                let limit = limit.unwrap_or(100);
                if limit == 0 || limit > limits::MEMBERS_ROWS as u64 {
                    return Err(Refusal::invalid("limit is 1 to 1000").with_limit("1000 members a page"));
                }
                let limit = usize::try_from(limit).unwrap_or(limits::MEMBERS_ROWS);
                Ok(ApiAnswer::json(200, &Self::members_page(&view, user, cursor.as_deref(), limit)?))
            }
            ApiCall::History { query, .. } => {
                let limit = query.limit.unwrap_or(1);
                if limit == 0 || limit > limits::HISTORY_ROWS as u64 {
                    return Err(Refusal::invalid("limit is 1 to 200").with_limit("200 rows a page"));
                }
                if query.before.is_some() && query.after.is_some() {
                    return Err(Refusal::invalid("give `before` or `after`, not both"));
                }
                Ok(ApiAnswer::json(200, &self.history(id, &view, user, query).await?))
            }
            ApiCall::Edits { sequence, .. } => Ok(ApiAnswer::json(200, &self.edits(id, &view, user, *sequence).await?)),
            _ => Ok(ApiAnswer::json(200, &self.conversation_row(id, &view, user, true).await?)),
        }
    }

    /// Writes are decided at the home, and so is their answer.
    async fn write_conversation(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let log = LogId::conversation(id);
        let view = self.view(log, true).await?;
        let placement = view.placement.as_ref().ok_or_else(Refusal::no_conversation)?;
        if placement.home != *self.me() {
            return self.to_home(&placement.home, user, call, pass_on).await;
        }
        match call {
            ApiCall::AddMembers { users, key, .. } => {
                if users.is_empty() {
                    return Err(Refusal::invalid("userIds names nobody"));
                }
                let change = Change::Members { action: MemberAction::Add(Role::Member), users: users.clone() };
                self.change(log, user, EntryKind::Member, *key, &change).await?;
            }
            ApiCall::RemoveMember { user: who, key, .. } => {
                let action = if who == user { MemberAction::Leave } else { MemberAction::Remove };
                let change = Change::Members { action, users: vec![who.clone()] };
                self.change(log, user, EntryKind::Member, *key, &change).await?;
                return Ok(ApiAnswer::empty());
            }
            ApiCall::SetRole { user: who, role, key, .. } => {
                let change = Change::Members { action: MemberAction::Role(*role), users: vec![who.clone()] };
                self.change(log, user, EntryKind::Member, *key, &change).await?;
            }
            ApiCall::PatchConversation { patch, key, .. } => self.patch(log, user, patch, *key).await?,
            _ => return Err(Refusal::new(ErrorCode::Internal, "not a write")),
        }
        let view = self.view(log, false).await?;
        Ok(ApiAnswer::json(200, &self.conversation_row(id, &view, user, true).await?))
    }

    pub(crate) async fn to_home(
        &self,
        home: &RegionId,
        user: &UserId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        if pass_on && self.links.is_up(home) {
            Ok(self.proxy(home, user, call).await)
        } else {
            Err(Refusal::new(ErrorCode::HomeUnreachable, format!("region {home} is out of reach")).with_retry_after(5))
        }
    }

    async fn change(
        &self,
        log: LogId,
        user: &UserId,
        kind: EntryKind,
        key: Uuid,
        change: &Change,
    ) -> Result<(), Refusal> {
        let mut command = self.own_command(log, kind, key, change.encode());
        command.sender = user.clone();
        self.command(command).await.map(|_| ())
    }

    /// Each changed field is an entry of its own; their keys differ, so that a retry of the whole repeats none.
    async fn patch(&self, log: LogId, user: &UserId, patch: &PatchConversation, key: Uuid) -> Result<(), Refusal> {
        if patch.is_empty() {
            return Err(Refusal::invalid(
                "nothing to change: give `name`, `settings`, `durability` or `partitionMode`",
            ));
        }
        if let Some(name) = &patch.name {
            check_name(name)?;
            self.change(log, user, EntryKind::System, key, &Change::Name(name.clone())).await?;
        }
        if let Some(level) = patch.durability {
            self.check_level(level)?;
            let key = Uuid::from_u128(key.as_u128() ^ 1);
            self.change(log, user, EntryKind::System, key, &Change::Durability(level)).await?;
        }
        if let Some(mode) = patch.partition_mode {
            let key = Uuid::from_u128(key.as_u128() ^ 2);
            self.change(log, user, EntryKind::System, key, &Change::PartitionMode(mode)).await?;
        }
        if let Some(settings) = &patch.settings {
            let change = SettingsChange {
                only_admins_can_post: settings.only_admins_can_post,
                allow_member_invites: settings.allow_member_invites,
                retention_days: settings.retention_days,
            };
            let key = Uuid::from_u128(key.as_u128() ^ 3);
            self.change(log, user, EntryKind::System, key, &Change::Settings(change)).await?;
        }
        Ok(())
    }

    /// A level that this mesh can ever give.
    pub(crate) fn check_level(&self, level: Level) -> Result<(), Refusal> {
        let voters = self.options.map.voters(self.me()).len();
        if level.copies(voters) > voters {
            return Err(Refusal::invalid(format!(
                "durability {} needs more regions than the {voters} of this mesh",
                level.as_str()
            )));
        }
        Ok(())
    }

    async fn create_direct(
        self: &Arc<Self>,
        user: &UserId,
        other: UserId,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        if other == *user {
            return Err(Refusal::invalid("a direct conversation is with somebody else"));
        }
        let id = hearth_protocol::ids::direct_conversation(user, &other);
        let log = LogId::conversation(id);
        let placement = self.place(log, Level::Region, PartitionMode::Park).await?;
        if placement.home != *self.me() {
            return self.to_home(&placement.home, user, &ApiCall::CreateDirect { other }, pass_on).await;
        }
        let header = Header::Conversation {
            kind: ConversationKind::Direct,
            name: None,
            settings: default_settings(ConversationKind::Direct),
            members: vec![(user.clone(), Role::Member), (other, Role::Member)],
        };
        let created = self.create(log, user, &header).await?;
        let view = self.view(log, false).await?;
        let row = self.conversation_row(id, &view, user, true).await?;
        Ok(ApiAnswer::json(if created { 201 } else { 200 }, &row))
    }

    /// Opens a log with its header. Returns whether this call did it.
    async fn create(&self, log: LogId, user: &UserId, header: &Header) -> Result<bool, Refusal> {
        let mut command = self.own_command(log, EntryKind::Header, Uuid::new_v4(), header.encode());
        command.sender = user.clone();
        self.command(command).await.map(|ack| !ack.duplicate)
    }

    async fn create_group(
        self: &Arc<Self>,
        user: &UserId,
        group: &CreateGroup,
        key: Uuid,
        keyed: bool,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        check_name(&group.name)?;
        let kind = group.kind.unwrap_or(ConversationKind::Group);
        if kind == ConversationKind::Direct {
            return Err(Refusal::invalid("type is group or channel"));
        }
        let header = self.group_header(user, group, kind)?;
        if keyed
            && pass_on
            && let Some(home) = self.created_elsewhere(user, key).await
        {
            // The other region finds what it made, or finishes what it began.
            return self.to_home(&home, user, call, pass_on).await;
        }
        let log = self.group_id(user, key, self.me());
        let id = ConversationId(log.id);
        self.place(log, Level::Region, group.partition_mode.unwrap_or_default()).await?;
        let created = self.create(log, user, &header).await?;
        let view = self.view(log, false).await?;
        let row = self.conversation_row(id, &view, user, true).await?;
        Ok(ApiAnswer::json(if created { 201 } else { 200 }, &row))
    }

    fn group_header(&self, user: &UserId, group: &CreateGroup, kind: ConversationKind) -> Result<Header, Refusal> {
        if group.participant_ids.len() > limits::MEMBERS_PER_REQUEST {
            return Err(Refusal::too_large("too many participants", "1000 participants a request"));
        }
        let mut settings = default_settings(kind);
        let asked = &group.settings;
        if let Some(only_admins) = asked.only_admins_can_post {
            settings.only_admins_can_post = only_admins;
        }
        if let Some(invites) = asked.allow_member_invites {
            settings.allow_member_invites = invites;
        }
        if let Some(history) = asked.history_for_new_members {
            settings.history_for_new_members = history;
        }
        if let Some(days) = asked.retention_days {
            if !(1..=limits::RETENTION_DAYS).contains(&days) {
                return Err(Refusal::invalid("retentionDays is 1 to 3650"));
            }
            settings.retention_days = days;
        }
        let mut members = vec![(user.clone(), Role::Admin)];
        for participant in &group.participant_ids {
            if !members.iter().any(|(known, _)| known == participant) {
                members.push((participant.clone(), Role::Member));
            }
        }
        Ok(Header::Conversation { kind, name: Some(group.name.clone()), settings, members })
    }

    /// The id of a group: a function of its creator, the key and the region, in a slot that the region stewards. A
    /// retry with the same key finds the same group.
    fn group_id(&self, user: &UserId, key: Uuid, region: &RegionId) -> LogId {
        let mut attempt: u64 = 0;
        loop {
            let id = hearth_protocol::ids::group_conversation(user, key, attempt);
            let log = LogId::conversation(id);
            if self.options.map.steward(Slot::of(&log)) == region {
                return log;
            }
            attempt += 1;
        }
    }

    /// The region where an earlier try with this key placed the group. A region out of reach is taken to have made
    /// none: a key shall not keep a group from being made while a region is down.
    async fn created_elsewhere(&self, user: &UserId, key: Uuid) -> Option<RegionId> {
        for region in self.options.map.regions.iter().filter(|region| *region != self.me()) {
            let log = self.group_id(user, key, region);
            if let Some(placement) = self.view(log, true).await.ok().and_then(|view| view.placement) {
                return Some(placement.home);
            }
        }
        None
    }

    async fn user(
        self: &Arc<Self>,
        user: &UserId,
        id: &UserId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let view = self.view(LogId::user(id), true).await?;
        if view.placement.is_none() {
            return Err(Refusal::new(ErrorCode::NotFound, "no such user"));
        }
        if self.holds(&view) {
            Ok(ApiAnswer::json(200, &Self::user_row(&view, user)?))
        } else {
            self.pass_on(&view, user, call, pass_on).await
        }
    }

    async fn patch_me(
        self: &Arc<Self>,
        user: &UserId,
        patch: &PatchUser,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let too_long = |text: &Option<Option<String>>, most: usize| {
            text.as_ref().and_then(Option::as_ref).is_some_and(|text| text.chars().count() > most)
        };
        if too_long(&patch.display_name, limits::NAME_CHARACTERS) || too_long(&patch.avatar_url, limits::URL_CHARACTERS)
        {
            return Err(Refusal::too_large(
                "a field of the profile is too long",
                "100 characters of name, 2048 of URL",
            ));
        }
        let home = self.ensure_user(user).await?;
        if home != *self.me() {
            return self.to_home(&home, user, call, pass_on).await;
        }
        let change = Change::Profile { display_name: patch.display_name.clone(), avatar_url: patch.avatar_url.clone() };
        self.change_user(user, &change).await?;
        if let Some(shows) = patch.show_last_seen {
            self.change_user(user, &Change::Privacy(Privacy::ShowLastSeen(shows))).await?;
        }
        let view = self.view(LogId::user(user), false).await?;
        Ok(ApiAnswer::json(200, &Self::user_row(&view, user)?))
    }

    pub(crate) async fn row_of(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        pass_on: bool,
    ) -> Result<ConversationRow, Refusal> {
        let view = self.view(LogId::conversation(id), true).await?;
        check_mode(&view, user)?;
        let call = ApiCall::Conversation { id };
        let read = self.read_up_to(id, &view, user).await?;
        if self.holds(&view) && has_rows_of(&view, user, &call, read) {
            return self.conversation_row(id, &view, user, false).await;
        }
        let answer = self.pass_on(&view, user, &call, pass_on).await?;
        if answer.status != 200 {
            return Err(refusal_of(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| unreadable())
    }

    /// The command of what a session sends.
    pub(crate) fn send_command(&self, user: &UserId, sent: Submission) -> Command {
        let log = LogId::conversation(sent.conversation_id());
        let (id, sender) = (sent.message_id().0, user.clone());
        match sent {
            Submission::Message(send) => Command {
                sender,
                reply_to: send.reply_to.map(|id| id.0),
                expires_at: send.expires_at,
                level: send.durability,
                ..self.own_command(log, EntryKind::Message, id, send.content.to_json().into())
            },
            Submission::Change(change) => Command {
                sender,
                target: Some(change.target_message_id.0),
                ..self.own_command(log, change.kind(), id, change.change().encode())
            },
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let characters = name.chars().count();
    if characters == 0 || name.trim().is_empty() {
        return Err(Refusal::invalid("a name has 1 to 100 characters"));
    }
    if characters > limits::NAME_CHARACTERS {
        return Err(Refusal::too_large("the name is too long", "100 characters of name"));
    }
    Ok(())
}
