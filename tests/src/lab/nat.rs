//! Kinds of routers, in the words of RFC 4787 (UDP) and RFC 5382 (TCP), and the nftables rules that make them.

use std::fmt;

/// On what of the other side a mapping, or what is let in, depends (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing: one mapping for all, or anybody gets in.
    EndpointIndependent,
    /// On its address.
    AddressDependent,
    /// On its address and port.
    AddressAndPortDependent,
}

/// What one router does to TCP and to UDP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nat {
    mapping: Dependence,
    filtering: Dependence,
    udp: bool,
}

const CONE: Nat =
    Nat { mapping: Dependence::EndpointIndependent, filtering: Dependence::AddressAndPortDependent, udp: true };

const SYMMETRIC: Nat = Nat { mapping: Dependence::AddressAndPortDependent, ..CONE };

/// How a home is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A public address, no router.
    Public,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: most homes.
    PortRestricted,
    /// Address-and-port-dependent mapping and filtering: a new random port for each destination.
    Symmetric,
    /// A port-restricted router behind a carrier's NAT of the same kind, as RFC 6888 wants carriers' to be.
    CarrierGrade,
    /// A symmetric router that lets no UDP through.
    Hotel,
}

impl Access {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Public,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::CarrierGrade,
        Self::Hotel,
    ];

    /// Its routers, outermost first.
    pub(super) fn routers(self) -> Vec<Nat> {
        let filtering = |filtering| vec![Nat { filtering, ..CONE }];
        match self {
            Self::Public => Vec::new(),
            Self::FullCone => filtering(Dependence::EndpointIndependent),
            Self::AddressRestricted => filtering(Dependence::AddressDependent),
            Self::PortRestricted => vec![CONE],
            Self::Symmetric => vec![SYMMETRIC],
            Self::CarrierGrade => vec![CONE, CONE],
            Self::Hotel => vec![Nat { udp: false, ..SYMMETRIC }],
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Public => "public",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::CarrierGrade => "carrier-grade",
            Self::Hotel => "hotel",
        })
    }
}

/// The rules of a router between interfaces `lan` and `wan`.
///
/// Linux' own source NAT is none of RFC 4787's kinds: a connection that was refused, or that somebody outside began,
/// can take away the port that a mapping should keep. So mappings are written down here by the internal endpoint, and
/// whatever comes from outside to a mapped port is translated first and judged then: what is refused never becomes a
/// tracked connection.
///
/// One host behind a router has the ports to itself; two that use the same one would take it from each other.
pub(super) fn rules(nat: Nat) -> String {
    let mapped = nat.mapping == Dependence::EndpointIndependent;
    let translate_in = if mapped {
        r#"iifname "wan" meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport map @mapped"#
    } else {
        ""
    };
    // RFC 4787, requirement 1, and what a symmetric router does instead.
    let translate_out = if mapped { "masquerade" } else { "masquerade fully-random" };
    let let_in = match nat.filtering {
        Dependence::EndpointIndependent => "ct status dnat accept",
        Dependence::AddressDependent => "meta l4proto . ip daddr . th dport . ip saddr @contacted accept",
        Dependence::AddressAndPortDependent => "",
    };
    let refuse_udp = if nat.udp { "" } else { "meta l4proto udp drop" };
    format!(
        r#"
flush ruleset
table ip router {{
    map mapped {{
        type inet_proto . inet_service : ipv4_addr . inet_service
        flags dynamic,timeout
        timeout 5m
        size 4096
    }}
    set contacted {{
        type inet_proto . ipv4_addr . inet_service . ipv4_addr
        flags dynamic,timeout
        timeout 5m
        size 4096
    }}
    # Every packet that leaves renews its mapping, before its source is translated.
    chain remember {{
        type filter hook postrouting priority srcnat - 1; policy accept;
        oifname "wan" meta l4proto {{ tcp, udp }} update @mapped {{ meta l4proto . th sport : ip saddr . th sport }}
        oifname "wan" meta l4proto {{ tcp, udp }} update @contacted {{ meta l4proto . ip saddr . th sport . ip daddr }}
    }}
    chain translate_out {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan" {translate_out}
    }}
    chain translate_in {{
        type nat hook prerouting priority dstnat; policy accept;
        {translate_in}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {refuse_udp}
        iifname "lan" accept
        ct state established,related accept
        {let_in}
    }}
    # What nobody is mapped to ends here without a word: a refusal would end connections that both sides open at once.
    chain to_the_router {{
        type filter hook input priority filter; policy drop;
        iifname "lan" accept
        iifname "lo" accept
    }}
}}
"#
    )
}
