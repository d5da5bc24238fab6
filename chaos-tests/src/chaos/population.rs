//! Who chats with whom in a run, and what they do.

use std::time::Duration;

use super::plan::REGIONS;

/// Sizes of the conversations of a crowd, each with how many there are of it.
const SIZES: [(usize, usize); 4] = [(200, 1), (80, 3), (25, 16), (6, 30)];

/// The clients of a run and their conversations.
#[derive(Clone, Debug)]
pub struct Population {
    /// How many clients there are, as many at each region.
    pub clients: usize,
    /// Members of each conversation; the first makes it at its own region. Client 0 is in all of them: it reads them at
    /// the end.
    pub conversations: Vec<Vec<usize>>,
    /// Between two sends of a client.
    pub pace: Duration,
    /// Whether clients do all of chat beside sending: receipts, typing, views, presence, edits, deletes, reactions.
    pub everything: bool,
}

/// Name of a client's user.
#[must_use]
pub fn user(client: usize) -> String {
    format!("c{client}")
}

impl Population {
    /// Six clients who are all in six conversations, two at home in each region, and send.
    #[must_use]
    pub fn few() -> Self {
        const CLIENTS: usize = 6;
        let with_all = |conversation: usize| {
            let home = conversation % REGIONS;
            std::iter::once(home).chain((0..CLIENTS).filter(|client| *client != home)).collect()
        };
        Self {
            clients: CLIENTS,
            conversations: (0..6).map(with_all).collect(),
            pace: Duration::from_millis(45),
            everything: false,
        }
    }

    /// Five hundred clients in fifty conversations of mixed size, each in about two, who do everything.
    #[must_use]
    pub fn crowd() -> Self {
        const CLIENTS: usize = 500;
        let sizes = SIZES.iter().flat_map(|(size, count)| std::iter::repeat_n(*size, *count));
        let mut next = 1;
        let conversations = sizes.enumerate().map(|(number, size)| {
            // The creator is at home in the region whose turn it is.
            let from_next = (next..).map(|client| client % CLIENTS);
            let creator = from_next.take(CLIENTS).find(|client| client % REGIONS == number % REGIONS).unwrap_or(0);
            let mut members = vec![creator];
            if creator != 0 {
                members.push(0);
            }
            while members.len() < size {
                let client = next % CLIENTS;
                next += 1;
                if !members.contains(&client) {
                    members.push(client);
                }
            }
            members
        });
        Self {
            clients: CLIENTS,
            conversations: conversations.collect(),
            pace: Duration::from_secs(2),
            everything: true,
        }
    }

    /// The conversations of a client.
    #[must_use]
    pub fn of(&self, client: usize) -> Vec<usize> {
        let is_in = |(_, members): &(usize, &Vec<usize>)| members.contains(&client);
        self.conversations.iter().enumerate().filter(is_in).map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_of_a_crowd_is_in_a_conversation_and_each_is_made_where_its_turn_is() {
        for population in [Population::few(), Population::crowd()] {
            for (number, members) in population.conversations.iter().enumerate() {
                assert_eq!(members[0] % REGIONS, number % REGIONS);
                assert!(members.contains(&0), "{number}");
                assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), members.len(), "{number}");
            }
            assert!((0..population.clients).all(|client| !population.of(client).is_empty()));
        }
        let crowd = Population::crowd();
        assert_eq!((crowd.clients, crowd.conversations.len()), (500, 50));
        assert_eq!(crowd.conversations.iter().map(Vec::len).max(), Some(200));
    }
}
