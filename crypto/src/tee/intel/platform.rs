//! What Intel's levels say of one platform: whether its keys still count, and what it is worth.

use super::IntelError;
use dcap_qvl::{QeIdentity, TcbInfo, TcbStatus, intel::PckExtension, quote::Report};

/// Whether the platform reaches levels that Intel knows and has not revoked: by its own versions, by those of its TDX module
/// at launch and now, and by that of its quoting enclave (ISVSVN). `dcap-qvl` refuses the same, in words alone.
pub(super) fn check_levels(
    tcb_info: &TcbInfo,
    qe_identity: &QeIdentity,
    platform: &PckExtension,
    report: &Report,
    enclave_version: u16,
) -> Result<(), IntelError> {
    let launch = report.as_td10().map(|report| &report.tee_tcb_svn);
    let now = report.as_td15().map(|report| &report.tee_tcb_svn2);
    let by_enclave = qe_identity
        .tcb_levels
        .iter()
        .find(|level| enclave_version >= level.tcb.isvsvn)
        .map(|level| level.tcb_status);
    let mut reached = vec![by_enclave, level(tcb_info, platform, launch)];
    reached.extend(now.map(|now| level(tcb_info, platform, Some(now))));
    for tdx in launch.into_iter().chain(now) {
        if let Ok(Some(identity)) = tcb_info.tdx_module_identity(tdx) {
            let module = identity.tcb_levels.iter().find(|level| level.shortfall(tdx).is_none());
            reached.push(module.map(|level| level.tcb_status));
        }
    }
    if reached.contains(&Some(TcbStatus::Revoked)) {
        return Err(IntelError::RevokedTcb);
    }
    if reached.contains(&None) {
        return Err(IntelError::BelowAllLevels);
    }
    Ok(())
}

/// The status of the highest level that the platform reaches, in Intel's order: by SGX components, PCE, TDX components.
fn level(tcb_info: &TcbInfo, platform: &PckExtension, tdx: Option<&[u8; 16]>) -> Option<TcbStatus> {
    tcb_info
        .tcb_levels
        .iter()
        .filter(|level| {
            level
                .shortfalls(&platform.cpu_svn, platform.pce_svn, tdx)
                .is_ok_and(|shortfalls| shortfalls.is_empty())
        })
        .max_by(|one, other| {
            let key = |level: &dcap_qvl::TcbLevel| {
                (level.tcb.sgx_components.clone(), level.tcb.pce_svn, level.tcb.tdx_components.clone())
            };
            key(one).cmp(&key(other))
        })
        .map(|level| level.tcb_status)
}

/// What a status is worth in AR4SI's claims.
pub(super) struct Worth {
    pub(super) hardware: i8,
    pub(super) configuration: i8,
    pub(super) sentence: &'static str,
}

/// Intel's statuses (PCS API version 4, `tcbStatus`) as claims. None for a revoked platform, which is an error.
pub(super) fn worth(status: TcbStatus) -> Option<Worth> {
    let (hardware, configuration, sentence) = match status {
        TcbStatus::UpToDate => (2, 2, "Its firmware is up to date."),
        TcbStatus::SWHardeningNeeded => (2, 32, "Its software must work around known weaknesses."),
        TcbStatus::ConfigurationNeeded => (2, 32, "Its host leaves on what its vendor advises to switch off."),
        TcbStatus::ConfigurationAndSWHardeningNeeded => (
            2,
            32,
            "Its host leaves on what its vendor advises to switch off, and its software must work around it.",
        ),
        TcbStatus::OutOfDate => (32, 2, "Its firmware is out of date."),
        TcbStatus::OutOfDateConfigurationNeeded => {
            (32, 32, "Its firmware is out of date, and its host leaves on what its vendor advises to switch off.")
        }
        TcbStatus::TDRelaunchAdvised => {
            (32, 2, "It began under firmware that was out of date and should be started again.")
        }
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded => (
            32,
            32,
            "It began under firmware that was out of date, and its host leaves on what its vendor advises to switch off.",
        ),
        TcbStatus::Revoked => return None,
    };
    Some(Worth { hardware, configuration, sentence })
}

/// Whether a status says that firmware lacks fixes that there are.
pub(super) fn lacks_fixes(status: TcbStatus) -> bool {
    matches!(
        status,
        TcbStatus::OutOfDate
            | TcbStatus::OutOfDateConfigurationNeeded
            | TcbStatus::TDRelaunchAdvised
            | TcbStatus::TDRelaunchAdvisedConfigurationNeeded
    )
}
