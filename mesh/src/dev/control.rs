//! How `hearth dev start|stop|drain` reach the process that runs a mesh: one JSON line each way over loopback.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::folder::read_mesh_file;

/// Bytes of one control line.
const LINE_BYTES: u64 = 64 * 1024;
/// Longest wait for a control line.
const LINE_PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum ControlRequest {
    /// Start a region.
    Start {
        /// Which.
        region: String,
    },
    /// Stop a region.
    Stop {
        /// Which.
        region: String,
    },
    /// Drain the sessions of a region.
    Drain {
        /// Which.
        region: String,
        /// Over this many milliseconds.
        over_ms: u64,
    },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// 0 done, 6 already so, 2 no such region, 70 anything else.
    pub code: u8,
    /// For people.
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    secret: String,
    request: ControlRequest,
}

/// Asks the mesh of a data folder. `None` when no mesh runs there.
pub async fn ask(data: &Path, request: ControlRequest) -> Option<ControlAnswer> {
    let file = read_mesh_file(data)?;
    let mut stream = TcpStream::connect(("127.0.0.1", file.control)).await.ok()?;
    let line = serde_json::to_string(&Line { secret: file.secret, request }).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES)).read_line(&mut answer).await.ok()?;
    serde_json::from_str(&answer).ok()
}

/// Answers control requests one after the other until dropped.
pub(crate) async fn serve<H, F>(listener: TcpListener, secret: String, handle: H)
where
    H: Fn(ControlRequest) -> F,
    F: Future<Output = ControlAnswer>,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(LINE_BYTES));
        let read = tokio::time::timeout(LINE_PATIENCE, reader.read_line(&mut line)).await;
        if !matches!(read, Ok(Ok(_))) {
            continue;
        }
        let answer = match serde_json::from_str::<Line>(&line) {
            Ok(line) if line.secret == secret => handle(line.request).await,
            Ok(_) | Err(_) => ControlAnswer { code: 70, message: "not a control request of this mesh".to_owned() },
        };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        // Who asked may have gone; what was asked is done.
        let _ = writer.write_all(format!("{text}\n").as_bytes()).await;
    }
}
