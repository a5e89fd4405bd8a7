//! A server that speaks OpenAI's API and tells endless stories: an engine that is up at once, for tests of what lies
//! around it.

use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The model that it offers.
pub const STORIES: &str = "stories";
/// Time between two pieces of an answer.
const PACE: Duration = Duration::from_millis(2);

/// The server; dropping it ends it.
#[derive(Debug)]
pub struct Stories {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Stories {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stories {
    /// Starts it on a port of the system's choice.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever asks may leave at any moment.
                tokio::spawn(async move { drop(serve(stream).await) });
            }
        });
        Self { address, task }
    }

    /// Writes settings of a node that offers it.
    pub fn settings(&self, file: &Path) {
        let text = format!(
            "[[provide.upstream]]\nurl = \"http://{}/v1\"\nmodels = [\"{STORIES}\"]\nslots = 4\n",
            self.address
        );
        std::fs::write(file, text).expect("written");
    }
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if stream.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or_default();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if first.starts_with("GET") {
            let list = format!("{{\"object\":\"list\",\"data\":[{{\"id\":\"{STORIES}\"}}]}}");
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", list.len());
            stream.write_all(format!("{head}\r\n\r\n{list}").as_bytes()).await?;
            continue;
        }
        let request: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let tokens = request["max_tokens"].as_u64().or(request["max_completion_tokens"].as_u64()).unwrap_or(64);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            .await?;
        let piece = |content: &str, finish: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{content}}},\"finish_reason\":{finish}}}]}}\n\n"
            )
        };
        for _ in 0..tokens {
            stream.write_all(piece("\"content\":\" and\"", "null").as_bytes()).await?;
            stream.flush().await?;
            tokio::time::sleep(PACE).await;
        }
        stream.write_all(piece("", "\"length\"").as_bytes()).await?;
        stream.write_all(b"data: [DONE]\n\n").await?;
        return stream.shutdown().await;
    }
}
