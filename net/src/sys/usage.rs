//! What the process has used so far, as the kernel counts it.

/// CPU time of the process, as `seconds.microseconds`.
#[derive(Clone, Debug)]
pub struct Usage {
    /// In user mode.
    pub user: String,
    /// In the kernel.
    pub system: String,
}

impl Usage {
    /// Asks the kernel.
    pub fn of_this_process() -> Usage {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `getrusage` writes a `struct rusage` into the memory given,
        // which has that size and was zeroed, so it is initialised even if the
        // call failed.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let text = |time: libc::timeval| format!("{}.{:06}", time.tv_sec, time.tv_usec);
        Usage { user: text(usage.ru_utime), system: text(usage.ru_stime) }
    }
}
