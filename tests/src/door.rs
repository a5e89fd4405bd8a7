//! A way from the test to a server in another network namespace, through sockets that were made there.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

/// Another network namespace, as seen from here.
#[derive(Clone)]
pub struct Inside {
    /// Words before a command that make it run there.
    pub entry: Vec<String>,
    /// Makes sockets there.
    pub socket: Arc<dyn Fn() -> TcpSocket + Send + Sync>,
}

impl fmt::Debug for Inside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inside").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// Owns a listener on loopback here whose connections go on to the server; it closes with this value.
#[derive(Debug)]
pub struct Door {
    /// Where to knock.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Door {
    /// A door to `server`, as it is called inside.
    pub async fn open(inside: Inside, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("a bound listener");
        let task = tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let socket = (inside.socket)();
                tokio::spawn(async move {
                    // A server that refuses shows as a connection that closes.
                    if let Ok(mut inner) = socket.connect(server).await {
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    }
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}
