//! Decides when to ping, when a link is dead, and what its round trip is. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pings whose echo is still awaited; older ones are forgotten. At the default pace of four a
/// second this is twice the time after which the link is dead anyway.
const MAXIMUM_OUTSTANDING: usize = 20;

/// A wake-up that is later than this was a pause of this process, not of the network.
const TOLERATED_LATENESS: Duration = Duration::from_millis(250);

/// What [`Liveness::poll`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessAction {
    /// Send a ping with this number now, then poll again.
    Ping(u64),
    /// Nothing to do before this instant.
    Wait(Instant),
    /// No ping was echoed for too long: the link is down.
    Dead,
}

/// State of one connection's pings. Both sides run one of their own, so a cut of one direction is
/// noticed by both: each needs both directions for an echo.
#[derive(Debug)]
pub struct Liveness {
    ping_every: Duration,
    silent_after: Duration,
    next_ping: Instant,
    next_number: u64,
    outstanding: VecDeque<(u64, Instant)>,
    last_echo: Instant,
    expected_poll: Instant,
    round_trip: Option<Duration>,
}

impl Liveness {
    /// A link that was just made, which counts as an echo at `now`.
    #[must_use]
    pub fn new(ping_every: Duration, silent_after: Duration, now: Instant) -> Self {
        Self {
            ping_every,
            silent_after,
            next_ping: now,
            next_number: 1,
            outstanding: VecDeque::with_capacity(MAXIMUM_OUTSTANDING),
            last_echo: now,
            expected_poll: now,
            round_trip: None,
        }
    }

    /// What to do at `now`. Call again at once after `Ping`, and at the instant of `Wait`.
    ///
    /// When this is called much later than asked, the process itself stood still (a suspended
    /// machine, starved cores) and could not have read echoes: that time is not held against the peer.
    pub fn poll(&mut self, now: Instant) -> LivenessAction {
        let lateness = now.saturating_duration_since(self.expected_poll);
        if lateness > TOLERATED_LATENESS {
            self.last_echo = (self.last_echo + lateness).min(now);
        }
        self.expected_poll = now;
        if now.saturating_duration_since(self.last_echo) >= self.silent_after {
            return LivenessAction::Dead;
        }
        if now >= self.next_ping {
            return self.ping(now);
        }
        let wake = self.next_ping.min(self.last_echo + self.silent_after);
        self.expected_poll = wake;
        LivenessAction::Wait(wake)
    }

    fn ping(&mut self, now: Instant) -> LivenessAction {
        if self.outstanding.len() == MAXIMUM_OUTSTANDING {
            self.outstanding.pop_front();
        }
        let number = self.next_number;
        self.next_number += 1;
        self.outstanding.push_back((number, now));
        self.next_ping = now + self.ping_every;
        LivenessAction::Ping(number)
    }

    /// Takes the echo of ping `number`; echoes that are unknown, repeated or forgotten change nothing.
    /// Gives the smoothed round trip after this sample, as TCP smooths it: seven parts old, one new.
    pub fn handle_pong(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let index = self.outstanding.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent_at) = self.outstanding.remove(index)?;
        let sample = now.saturating_duration_since(sent_at);
        self.last_echo = self.last_echo.max(now);
        let smoothed = match self.round_trip {
            None => sample,
            Some(old) => (old * 7 + sample) / 8,
        };
        self.round_trip = Some(smoothed);
        self.round_trip
    }

    /// Smoothed time between a ping and its echo; none before the first echo.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(250);
    const SILENT: Duration = Duration::from_millis(2_500);

    fn start() -> (Liveness, Instant) {
        let now = Instant::now();
        (Liveness::new(EVERY, SILENT, now), now)
    }

    /// Polls punctually from `now` until `stop`, echoing by `echo(number)` after its delay.
    fn run(
        liveness: &mut Liveness,
        mut now: Instant,
        stop: Instant,
        echo: impl Fn(u64) -> Option<Duration>,
    ) -> Result<Instant, Instant> {
        let mut due: Vec<(Instant, u64)> = Vec::new();
        while now < stop {
            match liveness.poll(now) {
                LivenessAction::Ping(number) => {
                    if let Some(delay) = echo(number) {
                        due.push((now + delay, number));
                    }
                }
                LivenessAction::Dead => return Err(now),
                LivenessAction::Wait(until) => {
                    for (at, number) in due.extract_if(.., |(at, _)| *at <= until) {
                        liveness.handle_pong(number, at);
                    }
                    now = until;
                }
            }
        }
        Ok(now)
    }

    #[test]
    fn a_link_whose_pings_are_echoed_lives() {
        let (mut liveness, now) = start();
        let end = run(&mut liveness, now, now + Duration::from_secs(60), |_| Some(Duration::from_millis(80)));
        assert!(end.is_ok());
        assert_eq!(liveness.round_trip(), Some(Duration::from_millis(80)));
    }

    #[test]
    fn a_link_without_an_echo_is_dead_after_the_limit_and_not_before() {
        let (mut liveness, now) = start();
        let died = run(&mut liveness, now, now + Duration::from_secs(60), |_| None);
        assert_eq!(died, Err(now + SILENT));
    }

    #[test]
    fn one_echo_in_the_window_keeps_the_link() {
        let (mut liveness, now) = start();
        let end = run(&mut liveness, now, now + Duration::from_secs(60), |number| {
            number.is_multiple_of(8).then_some(Duration::from_millis(10))
        });
        assert!(end.is_ok());
    }

    #[test]
    fn a_pause_of_this_process_is_not_held_against_the_peer() {
        let (mut liveness, now) = start();
        let resumed = run(&mut liveness, now, now + Duration::from_secs(1), |_| Some(Duration::ZERO)).expect("alive");
        let after_pause = resumed + Duration::from_secs(30);
        assert!(matches!(liveness.poll(after_pause), LivenessAction::Ping(_)));
        let died = run(&mut liveness, after_pause, after_pause + Duration::from_secs(60), |_| None);
        let died = died.expect_err("still silent");
        assert!(died.duration_since(after_pause) <= SILENT);
    }

    #[test]
    fn an_unknown_or_repeated_echo_changes_nothing() {
        let (mut liveness, now) = start();
        assert_eq!(liveness.poll(now), LivenessAction::Ping(1));
        let at = now + Duration::from_millis(40);
        assert_eq!(liveness.handle_pong(99, at), None);
        assert_eq!(liveness.handle_pong(1, at), Some(Duration::from_millis(40)));
        assert_eq!(liveness.handle_pong(1, at + Duration::from_secs(1)), None);
        assert_eq!(liveness.round_trip(), Some(Duration::from_millis(40)));
    }

    #[test]
    fn the_round_trip_is_smoothed() {
        let (mut liveness, now) = start();
        liveness.poll(now);
        liveness.handle_pong(1, now + Duration::from_millis(80));
        let later = now + EVERY;
        assert_eq!(liveness.poll(later), LivenessAction::Ping(2));
        assert_eq!(liveness.handle_pong(2, later + Duration::from_millis(160)), Some(Duration::from_millis(90)));
    }
}
