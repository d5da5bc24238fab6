//! Makes a connection ready: TLS names, hellos, lanes. Both roles.

use bytes::{BufMut, BytesMut};
use prost::Message;
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

use crate::lanes::{LANES, Lane, header};
use crate::peer::{Established, PeerHello};
use crate::tls::is_for_region;
use crate::wire::{CLOSE_PROTOCOL, Hello, MAXIMUM_HELLO_BYTES, Refusal, check_hello};

/// First of the transport error codes that carry a TLS alert (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// Why no link came of an attempt.
#[derive(Debug)]
pub(crate) enum EstablishError {
    /// One side refused.
    Refused(Refusal),
    /// The connection was lost before it was ready, or never made.
    Lost,
    /// The peer broke the rules of this layer.
    Protocol,
}

impl EstablishError {
    /// Reads what a lost connection says. `ours` is our hello, whose versions a refusal compares.
    fn from_connection(error: &ConnectionError, ours: &Hello) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Refusal::from_close(close.error_code.into_inner(), &close.reason, ours.versions())
                    .map_or(Self::Lost, Self::Refused)
            }
            ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
                Self::Refused(Refusal::Certificate)
            }
            ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
                Self::Refused(Refusal::Certificate)
            }
            _ => Self::Lost,
        }
    }
}

/// Dials `region` at `address` and makes the connection ready.
pub(crate) async fn dial(
    endpoint: &quinn::Endpoint,
    address: std::net::SocketAddr,
    region: &str,
    ours: &Hello,
) -> Result<Established, EstablishError> {
    // TLS verifies that the certificate is one of this mesh for this name.
    let connecting = endpoint.connect(address, region).map_err(|_| EstablishError::Lost)?;
    let connection = connecting.await.map_err(|error| EstablishError::from_connection(&error, ours))?;
    let outcome = dial_hello(&connection, region, ours).await;
    conclude(connection, outcome, ours)
}

/// Accepts a connection and makes it ready. `knows` tells whether a region may dial us.
/// Gives the region that the peer proved with its outcome; none when it proved none.
pub(crate) async fn accept(
    incoming: Incoming,
    ours: &Hello,
    knows: impl Fn(&str) -> Result<(), Refusal>,
) -> (Option<String>, Result<Established, EstablishError>) {
    // The handshake ends when the client's certificate was verified: nothing is sent before that.
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return (None, Err(EstablishError::from_connection(&error, ours))),
    };
    let mut proved = None;
    let outcome = accept_hello(&connection, ours, knows, &mut proved).await;
    (proved, conclude(connection, outcome, ours))
}

type Ready = (PeerHello, Vec<(SendStream, RecvStream)>);

/// Turns the outcome of the hellos into a ready connection, or closes it and says why.
fn conclude(
    connection: Connection,
    outcome: Result<Ready, EstablishError>,
    ours: &Hello,
) -> Result<Established, EstablishError> {
    match outcome {
        Ok((hello, streams)) => Ok(Established { connection, hello, streams }),
        Err(error) => {
            if let Some(reason) = connection.close_reason() {
                return Err(EstablishError::from_connection(&reason, ours));
            }
            let (code, detail) = match &error {
                EstablishError::Refused(refusal) => (refusal.close_code(), refusal.close_detail()),
                EstablishError::Lost | EstablishError::Protocol => (CLOSE_PROTOCOL, Vec::new()),
            };
            connection.close(VarInt::from_u32(code), &detail);
            Err(error)
        }
    }
}

async fn dial_hello(connection: &Connection, region: &str, ours: &Hello) -> Result<Ready, EstablishError> {
    let mut streams = Vec::with_capacity(LANES);
    let mut control = open(connection, Lane::Control).await?;
    write_hello(&mut control.0, ours).await?;
    let theirs = read_hello(&mut control.1).await?;
    if theirs.region != region {
        return Err(EstablishError::Refused(Refusal::Region));
    }
    let hello = agree(ours, theirs)?;
    streams.push(control);
    for lane in Lane::all().skip(1) {
        streams.push(open(connection, lane).await?);
    }
    Ok((hello, streams))
}

async fn accept_hello(
    connection: &Connection,
    ours: &Hello,
    knows: impl Fn(&str) -> Result<(), Refusal>,
    proved: &mut Option<String>,
) -> Result<Ready, EstablishError> {
    let (lane, mut control) = accept_lane(connection).await?;
    if lane != Lane::Control {
        return Err(EstablishError::Protocol);
    }
    let theirs = read_hello(&mut control.1).await?;
    let certificate =
        connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'_>>>().ok());
    let leaf = certificate.as_ref().and_then(|chain| chain.first());
    if !leaf.is_some_and(|leaf| is_for_region(leaf, &theirs.region)) {
        return Err(EstablishError::Refused(Refusal::Region));
    }
    *proved = Some(theirs.region.clone());
    knows(&theirs.region).map_err(EstablishError::Refused)?;
    let hello = agree(ours, theirs)?;
    write_hello(&mut control.0, ours).await?;
    let mut streams = vec![control];
    // The dialler opens the other lanes only after our hello satisfied it: when all are here, it
    // holds the link for made too.
    for expected in Lane::all().skip(1) {
        let (lane, stream) = accept_lane(connection).await?;
        if lane != expected {
            return Err(EstablishError::Protocol);
        }
        streams.push(stream);
    }
    Ok((hello, streams))
}

fn agree(ours: &Hello, theirs: Hello) -> Result<PeerHello, EstablishError> {
    let version = check_hello(ours, &theirs).map_err(EstablishError::Refused)?;
    let store_id = theirs.store_id.try_into().map_err(|_| EstablishError::Protocol)?;
    Ok(PeerHello { region: theirs.region, node: theirs.node, store_id, incarnation: theirs.incarnation, version })
}

async fn open(connection: &Connection, lane: Lane) -> Result<(SendStream, RecvStream), EstablishError> {
    let (mut send, receive) = connection.open_bi().await.map_err(|_| EstablishError::Lost)?;
    send.set_priority(lane.priority()).map_err(|_| EstablishError::Lost)?;
    send.write_all(&[lane.byte()]).await.map_err(|_| EstablishError::Lost)?;
    Ok((send, receive))
}

async fn accept_lane(connection: &Connection) -> Result<(Lane, (SendStream, RecvStream)), EstablishError> {
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| EstablishError::Lost)?;
    let mut byte = [0];
    receive.read_exact(&mut byte).await.map_err(|_| EstablishError::Lost)?;
    let lane = Lane::from_byte(byte[0]).ok_or(EstablishError::Protocol)?;
    send.set_priority(lane.priority()).map_err(|_| EstablishError::Lost)?;
    Ok((lane, (send, receive)))
}

async fn write_hello(stream: &mut SendStream, hello: &Hello) -> Result<(), EstablishError> {
    let bytes = hello.encode_to_vec();
    let mut frame = BytesMut::with_capacity(bytes.len() + 4);
    frame.put_slice(&header(bytes.len()));
    frame.put_slice(&bytes);
    stream.write_chunk(frame.freeze()).await.map_err(|_| EstablishError::Lost)
}

async fn read_hello(stream: &mut RecvStream) -> Result<Hello, EstablishError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|_| EstablishError::Lost)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| EstablishError::Protocol)?;
    if length > MAXIMUM_HELLO_BYTES {
        return Err(EstablishError::Protocol);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|_| EstablishError::Lost)?;
    Hello::decode(bytes.as_slice()).map_err(|_| EstablishError::Protocol)
}
