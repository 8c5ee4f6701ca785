//! The resources whose use can be limited.

/// A resource of `setrlimit(2)`, for [`Builder::rlimit`](crate::Builder::rlimit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Virtual memory, in bytes (RLIMIT_AS).
    AddressSpace,
    /// Size of a core dump, in bytes (RLIMIT_CORE).
    Core,
    /// CPU time, in seconds: SIGXCPU at the soft limit, SIGKILL at the hard one (RLIMIT_CPU).
    CpuTime,
    /// Data segment, in bytes (RLIMIT_DATA).
    Data,
    /// Size of a file that is written, in bytes: SIGXFSZ (RLIMIT_FSIZE).
    FileSize,
    /// Locked memory, in bytes (RLIMIT_MEMLOCK).
    LockedMemory,
    /// The nice value may fall to 20 minus this (RLIMIT_NICE).
    Nice,
    /// One more than the highest descriptor number (RLIMIT_NOFILE).
    OpenFiles,
    /// Processes and threads of the child's real user, all programs together (RLIMIT_NPROC).
    Processes,
    /// Real-time priority (RLIMIT_RTPRIO).
    RealTimePriority,
    /// Signals that may be queued (RLIMIT_SIGPENDING).
    PendingSignals,
    /// Stack of the main thread, in bytes (RLIMIT_STACK).
    Stack,
}

impl Resource {
    pub(crate) fn as_raw(self) -> i32 {
        // The C library's type of these constants differs between targets.
        let raw = match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::CpuTime => libc::RLIMIT_CPU,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::Nice => libc::RLIMIT_NICE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::RealTimePriority => libc::RLIMIT_RTPRIO,
            Resource::PendingSignals => libc::RLIMIT_SIGPENDING,
            Resource::Stack => libc::RLIMIT_STACK,
        };
        raw as i32
    }

    pub(super) fn from_raw(raw: i32) -> Option<Resource> {
        ALL.into_iter().find(|resource| resource.as_raw() == raw)
    }
}

const ALL: [Resource; 12] = [
    Resource::AddressSpace,
    Resource::Core,
    Resource::CpuTime,
    Resource::Data,
    Resource::FileSize,
    Resource::LockedMemory,
    Resource::Nice,
    Resource::OpenFiles,
    Resource::Processes,
    Resource::RealTimePriority,
    Resource::PendingSignals,
    Resource::Stack,
];
