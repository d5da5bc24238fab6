//! What the edge counts. Labels come from closed sets.

use hearth_protocol::ErrorCode;
use hearth_protocol::client::CloseCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value.
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                match self { $(Self::$variant => $text,)+ }.encode(encoder)
            }
        }
    };
}

label!(
    /// How a client is connected.
    TransportLabel {
        /// WebSocket.
        WebSocket = "websocket",
        /// WebTransport.
        WebTransport = "webtransport",
    }
);
label!(
    /// Which way a frame goes.
    DirectionLabel {
        /// From the client.
        In = "in",
        /// To the client.
        Out = "out",
    }
);
label!(
    /// Why an event did not go out.
    DropLabel {
        /// It was sent already, or belongs to an older line.
        Duplicate = "duplicate",
        /// A number before it is missing: the client was told to pull.
        Gap = "gap",
        /// Too many live frames waited behind a replay.
        Held = "held",
        /// Messages of a conversation that a slow client was told to pull.
        Pulled = "pulled",
        /// The client did not read.
        SlowConsumer = "slow_consumer",
    }
);

/// A public error code as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ErrorLabel(pub(crate) ErrorCode);

impl EncodeLabelValue for ErrorLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

/// A close code as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CloseLabel(pub(crate) CloseCode);

impl EncodeLabelValue for CloseLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.number().encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: TransportLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    direction: DirectionLabel,
    transport: TransportLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByError {
    error: ErrorLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: CloseLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: DropLabel,
}

/// The counters of one gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayMetrics {
    sessions: Family<ByTransport, Gauge>,
    frames: Family<ByDirection, Counter>,
    refusals: Family<ByError, Counter>,
    closes: Family<ByCode, Counter>,
    dropped: Family<ByReason, Counter>,
}

/// The counters of one session, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct SessionMetrics {
    /// Live sessions of the transport.
    pub(crate) sessions: Gauge,
    /// Frames from clients.
    pub(crate) frames_in: Counter,
    /// Frames to clients.
    pub(crate) frames_out: Counter,
}

impl GatewayMetrics {
    /// Counters that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("hearth_gateway_sessions", "Live sessions", metrics.sessions.clone());
        registry.register("hearth_gateway_frames", "Frames to and from clients", metrics.frames.clone());
        let help = "Requests that were refused, in frames and REST";
        registry.register("hearth_gateway_refusals", help, metrics.refusals.clone());
        registry.register("hearth_gateway_closes", "Sessions closed by the server", metrics.closes.clone());
        registry.register("hearth_gateway_outbound_dropped", "Events that did not go out", metrics.dropped.clone());
        metrics.begin_at_zero();
        metrics
    }

    /// Every label value is there from the start: what never happened reads 0 and is not absent.
    fn begin_at_zero(&self) {
        for transport in TransportLabel::ALL.iter().copied() {
            drop(self.sessions.get_or_create(&ByTransport { transport }));
            for direction in DirectionLabel::ALL.iter().copied() {
                drop(self.frames.get_or_create(&ByDirection { direction, transport }));
            }
        }
        for error in ErrorCode::ALL {
            drop(self.refusals.get_or_create(&ByError { error: ErrorLabel(*error) }));
        }
        for code in CloseCode::ALL {
            drop(self.closes.get_or_create(&ByCode { code: CloseLabel(*code) }));
        }
        for reason in DropLabel::ALL {
            drop(self.dropped.get_or_create(&ByReason { reason: *reason }));
        }
    }

    /// The counters of a session on `transport`.
    #[must_use]
    pub(crate) fn session(&self, transport: TransportLabel) -> SessionMetrics {
        let frames = |direction| self.frames.get_or_create(&ByDirection { direction, transport }).clone();
        SessionMetrics {
            sessions: self.sessions.get_or_create(&ByTransport { transport }).clone(),
            frames_in: frames(DirectionLabel::In),
            frames_out: frames(DirectionLabel::Out),
        }
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, error: ErrorCode) {
        self.refusals.get_or_create(&ByError { error: ErrorLabel(error) }).inc();
    }

    /// Counts a close by the server.
    pub(crate) fn closed(&self, code: CloseCode) {
        self.closes.get_or_create(&ByCode { code: CloseLabel(code) }).inc();
    }

    /// Counts an event that did not go out.
    pub(crate) fn dropped(&self, reason: DropLabel) {
        self.dropped.get_or_create(&ByReason { reason }).inc();
    }
}
