//! What is negotiated on a new stream.

use crate::network::Protocol;
use futures::future::{Ready, ready};
use libp2p::{
    Stream,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
};
use std::{array, convert::Infallible, iter};

/// Accepts any of our protocols, and says which.
#[derive(Clone, Copy, Debug)]
pub struct Accept;

impl UpgradeInfo for Accept {
    type Info = Protocol;
    type InfoIter = array::IntoIter<Protocol, { Protocol::ALL.len() }>;

    fn protocol_info(&self) -> Self::InfoIter {
        Protocol::ALL.into_iter()
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// Asks for one protocol.
#[derive(Clone, Copy, Debug)]
pub struct Ask(pub(super) Protocol);

impl UpgradeInfo for Ask {
    type Info = Protocol;
    type InfoIter = iter::Once<Protocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(self.0)
    }
}

impl OutboundUpgrade<Stream> for Ask {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: Protocol) -> Self::Future {
        ready(Ok(stream))
    }
}
