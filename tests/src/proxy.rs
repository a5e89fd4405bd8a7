//! A path of TCP between two nodes that a test can cut.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket},
    task::{JoinHandle, JoinSet},
};

/// Forwards connections to one address until it is cut.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A path to `target` on loopback, on a port that the system chooses.
    pub async fn start(target: SocketAddr) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, target).await
    }

    /// The same; `target` sees connections from `source`.
    pub async fn from(source: Ipv4Addr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    let socket = TcpSocket::new_v4().expect("a socket");
                    socket.bind((source, 0).into()).expect("an address of this machine");
                    if let Ok(mut far) = socket.connect(target).await {
                        // A connection that breaks is what the test is about.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    /// Cuts all connections and takes no more.
    pub async fn cut(self) {
        self.task.abort();
        // Its connections are closed once the task is gone.
        let _ = self.task.await;
    }
}
