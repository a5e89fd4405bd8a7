//! What the engine child may still do: compute, read its model file, answer on its pipes.
//!
//! The parser and the kernels of llama.cpp read files and prompts from strangers; the child gives up everything else
//! before the model file is opened, tries whether that holds, and tells what does not.

use super::frames::Load;
use std::path::Path;

/// Whether a driver must be reached: its device files, its libraries, its sockets.
pub(super) const GPU_BUILD: bool = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));

/// Gives up what loading and running the model does not need, and returns one warning for each restriction that this
/// system lacks. To be called while the process has one thread.
pub(super) fn enter(load: &Load) -> Vec<String> {
    let mut warnings = platform::enter(load);
    let escapes = escapes();
    // What is known to be missing was told with its reason.
    if warnings.is_empty() && !escapes.is_empty() {
        warnings.push(format!("the engine's sandbox does not hold: it can {}", escapes.join(", ")));
    }
    warnings
}

/// Closes whatever files the process was started with, but for its three pipes: a shell or a service manager may have
/// left some open. To be called before anything else is opened.
#[cfg(target_os = "linux")]
pub(super) fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for file in open.into_iter().filter(|&file| file > 2) {
        // The directory that was listed is among them, and closed by now.
        if std::fs::symlink_metadata(format!("/proc/self/fd/{file}")).is_err() {
            continue;
        }
        #[expect(
            unsafe_code,
            reason = "nothing in this process owns a file yet, so that none is closed under its owner"
        )]
        // SAFETY: it is open, and the caller opened nothing before: it was inherited.
        unsafe {
            rustix::io::close(file);
        }
    }
}

/// Gives up opening files, once the model is loaded. Drivers of GPUs open theirs later too, so only builds for the CPU do.
pub(super) fn seal() -> Option<String> {
    if GPU_BUILD { None } else { platform::seal() }
}

/// What a sandboxed process must not be able to do and this one can, tried for real.
pub(super) fn escapes() -> Vec<&'static str> {
    let mut escapes = Vec::new();
    if std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).is_ok() {
        escapes.push("open a network socket");
    }
    if !GPU_BUILD {
        // Every user may read it, so that only the sandbox can say no.
        if std::fs::File::open("/etc/passwd").is_ok() {
            escapes.push("read files other than its model");
        }
        if tempfile::tempfile().is_ok() {
            escapes.push("write files");
        }
    }
    if std::process::Command::new("/bin/true").spawn().is_ok_and(|mut child| child.wait().is_ok()) {
        escapes.push("start programs");
    }
    escapes
}

/// Bytes of anonymous memory for the child: what the owner allows, or all there is, and the file's own size on top,
/// because kernels keep weights in another order beside the mapped file.
#[cfg(unix)]
fn data_limit(allowed: u64, model: &Path) -> u64 {
    allowed.saturating_add(std::fs::metadata(model).map_or(0, |metadata| metadata.len()))
}

#[cfg(target_os = "linux")]
mod platform {
    use super::{GPU_BUILD, Load, data_limit};
    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
        RulesetStatus, Scope, path_beneath_rules,
    };
    use rustix::process::{Resource, Rlimit, getpid, setrlimit};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };
    use std::{collections::BTreeMap, path::Path};

    /// What the C++ run-time reads to learn how many processors there are.
    const READ_ALWAYS: &[&str] = &["/sys/devices/system", "/proc/cpuinfo", "/proc/meminfo", "/proc/self"];
    /// What drivers read: their libraries, their settings, what devices there are.
    const READ_FOR_GPU: &[&str] = &[
        "/usr",
        "/lib",
        "/lib64",
        "/opt",
        "/nix/store",
        "/run/opengl-driver",
        "/sys",
        "/proc",
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/vulkan",
        "/etc/glvnd",
        "/etc/nvidia",
        "/etc/OpenCL",
        "/dev",
    ];
    /// Where drivers write.
    const WRITE_FOR_GPU: &[&str] = &[
        "/dev/dri",
        "/dev/kfd",
        "/dev/nvidia0",
        "/dev/nvidia1",
        "/dev/nvidia2",
        "/dev/nvidia3",
        "/dev/nvidia4",
        "/dev/nvidia5",
        "/dev/nvidia6",
        "/dev/nvidia7",
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia-modeset",
        "/dev/nvidia-caps",
        "/dev/null",
        "/dev/shm",
    ];

    type Rules = BTreeMap<i64, Vec<SeccompRule>>;

    pub(super) fn enter(load: &Load) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut note = |what: &str, outcome: Result<(), &dyn std::fmt::Display>| {
            if let Err(reason) = outcome {
                warnings.push(format!("the engine runs without {what}: {reason}"));
            }
        };
        // An out-of-memory machine ends the engine rather than relay and ledger. Not all may lower themselves.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        note("the ban on new privileges", as_text(&rustix::thread::set_no_new_privs(true)));
        note("limits on its resources", as_text(&limits(load)));
        note("limits on files (Landlock)", as_text(&files(&load.path)));
        note("a filter of system calls (seccomp)", as_text(&system_calls()));
        warnings
    }

    pub(super) fn seal() -> Option<String> {
        let mut rules = Rules::new();
        #[cfg(target_arch = "x86_64")]
        deny(&mut rules, &[libc::SYS_open]);
        deny(&mut rules, &[libc::SYS_openat]);
        install(rules, libc::EPERM).err().map(|error| format!("the engine can open files after loading: {error}"))
    }

    fn limits(load: &Load) -> rustix::io::Result<()> {
        let set = |resource, limit| setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
        let info = rustix::system::sysinfo();
        let all = info.totalram.saturating_mul(u64::from(info.mem_unit).max(1));
        set(Resource::Core, 0)?;
        set(Resource::Nofile, 256)?;
        if !GPU_BUILD {
            set(Resource::Fsize, 0)?;
        }
        set(Resource::Data, data_limit(load.memory_limit.unwrap_or(all), &load.path))
    }

    /// What keeps files from being limited.
    #[derive(Debug, thiserror::Error)]
    enum FilesError {
        #[error(transparent)]
        Ruleset(#[from] RulesetError),
        #[error("the kernel does not have it; Linux 5.13 and later do")]
        NotEnforced,
    }

    /// The outcome, with what is told of its error.
    fn as_text<E: std::fmt::Display>(outcome: &Result<(), E>) -> Result<(), &dyn std::fmt::Display> {
        outcome.as_ref().map(|&()| ()).map_err(|error| error as &dyn std::fmt::Display)
    }

    fn files(model: &Path) -> Result<(), FilesError> {
        match restrict_files(model)? {
            RulesetStatus::NotEnforced => Err(FilesError::NotEnforced),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }

    fn restrict_files(model: &Path) -> Result<RulesetStatus, RulesetError> {
        let abi = ABI::V7;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules([model], AccessFs::ReadFile))?
            .add_rules(path_beneath_rules(READ_ALWAYS, read))?;
        if GPU_BUILD {
            ruleset = ruleset
                .add_rules(path_beneath_rules(READ_FOR_GPU, read | AccessFs::Execute))?
                .add_rules(path_beneath_rules(WRITE_FOR_GPU, AccessFs::from_all(abi)))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    }

    fn system_calls() -> Result<(), seccompiler::Error> {
        // Their arguments lie in memory, where no filter sees them; "not there" makes the C library use the older ones.
        let mut absent = Rules::new();
        deny(&mut absent, &[libc::SYS_clone3, libc::SYS_openat2]);
        install(absent, libc::ENOSYS)?;

        let mut rules = Rules::new();
        // Other processes and programs.
        deny(
            &mut rules,
            &[
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_process_madvise,
                libc::SYS_pidfd_open,
                libc::SYS_pidfd_getfd,
                libc::SYS_pidfd_send_signal,
                libc::SYS_tkill,
                libc::SYS_rt_sigqueueinfo,
                libc::SYS_rt_tgsigqueueinfo,
                libc::SYS_kcmp,
            ],
        );
        #[cfg(target_arch = "x86_64")]
        deny(&mut rules, &[libc::SYS_fork, libc::SYS_vfork]);
        let own = u64::try_from(getpid().as_raw_nonzero().get()).unwrap_or(0);
        for call in [libc::SYS_kill, libc::SYS_tgkill] {
            rules.insert(call, vec![argument(0, SeccompCmpOp::Ne, own)?]);
        }
        rules.insert(libc::SYS_prlimit64, vec![argument(0, SeccompCmpOp::Ne, 0)?]);
        // Threads yes, processes no.
        rules.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)?]);
        // The network. Drivers speak to their services over local sockets.
        if GPU_BUILD {
            rules.insert(libc::SYS_socket, vec![argument(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
        } else {
            deny(
                &mut rules,
                &[libc::SYS_socket, libc::SYS_socketpair, libc::SYS_connect, libc::SYS_sendto, libc::SYS_sendmsg],
            );
        }
        deny(&mut rules, &[libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4]);
        // Ways around a filter, and doors into the kernel that nothing here needs.
        deny(
            &mut rules,
            &[
                libc::SYS_io_uring_setup,
                libc::SYS_io_uring_enter,
                libc::SYS_io_uring_register,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_userfaultfd,
                libc::SYS_keyctl,
                libc::SYS_add_key,
                libc::SYS_request_key,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_pivot_root,
                libc::SYS_chroot,
                libc::SYS_setns,
                libc::SYS_unshare,
                libc::SYS_open_by_handle_at,
                libc::SYS_name_to_handle_at,
                libc::SYS_init_module,
                libc::SYS_finit_module,
                libc::SYS_delete_module,
                libc::SYS_kexec_load,
                libc::SYS_swapon,
                libc::SYS_swapoff,
                libc::SYS_reboot,
                libc::SYS_acct,
                libc::SYS_quotactl,
            ],
        );
        if !GPU_BUILD {
            read_only(&mut rules)?;
        }
        install(rules, libc::EPERM)
    }

    /// Nothing is written but to the pipes that are open.
    fn read_only(rules: &mut Rules) -> Result<(), seccompiler::Error> {
        let writing = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];
        let opening = |position| {
            writing
                .into_iter()
                .map(|flag| argument(position, SeccompCmpOp::MaskedEq(flag as u64), flag as u64))
                .collect::<Result<Vec<_>, _>>()
        };
        rules.insert(libc::SYS_openat, opening(2)?);
        #[cfg(target_arch = "x86_64")]
        {
            rules.insert(libc::SYS_open, opening(1)?);
            deny(
                rules,
                &[
                    libc::SYS_creat,
                    libc::SYS_unlink,
                    libc::SYS_rename,
                    libc::SYS_mkdir,
                    libc::SYS_rmdir,
                    libc::SYS_link,
                    libc::SYS_symlink,
                    libc::SYS_chmod,
                    libc::SYS_chown,
                    libc::SYS_lchown,
                    libc::SYS_mknod,
                ],
            );
        }
        deny(
            rules,
            &[
                libc::SYS_unlinkat,
                libc::SYS_renameat2,
                libc::SYS_mkdirat,
                libc::SYS_linkat,
                libc::SYS_symlinkat,
                libc::SYS_fchmod,
                libc::SYS_fchmodat,
                libc::SYS_fchown,
                libc::SYS_fchownat,
                libc::SYS_mknodat,
                libc::SYS_truncate,
                libc::SYS_setxattr,
                libc::SYS_utimensat,
            ],
        );
        Ok(())
    }

    fn deny(rules: &mut Rules, calls: &[libc::c_long]) {
        rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    }

    fn argument(position: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
        let condition = SeccompCondition::new(position, SeccompCmpArgLen::Dword, operator, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    }

    fn install(rules: Rules, errno: i32) -> Result<(), seccompiler::Error> {
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?;
        seccompiler::apply_filter_all_threads(&BpfProgram::try_from(filter)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::Load;

    pub(super) fn enter(load: &Load) -> Vec<String> {
        let mut warnings = vec![
            "the engine runs without a sandbox on this system: load only models whose source you trust".to_owned(),
        ];
        #[cfg(unix)]
        if let Some(allowed) = load.memory_limit {
            use rustix::process::{Resource, Rlimit, setrlimit};
            let limit = Some(super::data_limit(allowed, &load.path));
            if let Err(error) = setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit }) {
                warnings.push(format!("the engine runs without a limit on memory: {error}"));
            }
        }
        #[cfg(not(unix))]
        if load.memory_limit.is_some() {
            warnings.push("the engine runs without a limit on memory on this system".to_owned());
        }
        warnings
    }

    pub(super) fn seal() -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_trial_sees_a_process_that_is_not_sandboxed() {
        let escapes = super::escapes();
        assert!(escapes.contains(&"open a network socket") && escapes.contains(&"start programs"), "{escapes:?}");
        assert!(escapes.contains(&"read files other than its model") && escapes.contains(&"write files"));
    }
}
