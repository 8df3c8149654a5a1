//! Which thread goes first when cores are scarce: the belt before HTTP decoding.

/// Nice value of the threads that the belt waits for; needs root or CAP_SYS_NICE.
pub const BELT: i32 = -10;
/// Nice value of all others.
pub const NORMAL: i32 = 0;
/// Nice value of the threads that decode HTTP uploads while the belt runs: the scheduler gives the belt's nine tenths of
/// a contended core.
pub const DECODE: i32 = 10;
/// Nice value of what may wait until nothing else wants a core: the shadow run.
pub const LOW: i32 = 19;

/// Sets the calling thread's nice value. Without the right to lower it the thread keeps the one it has, which costs only
/// punctuality under overload.
#[allow(unsafe_code)] // a system call on plain numbers
pub fn set(nice: i32) {
    // SAFETY: both calls take and return integers only; on Linux a thread id names one thread, not the process.
    let refused = unsafe {
        let thread = libc::gettid() as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, thread, nice) != 0
    };
    if refused {
        tracing::debug!("nice {nice} was refused: {}", std::io::Error::last_os_error());
    }
}

/// Puts the calling thread before all ordinary ones (`SCHED_FIFO`): for threads that sleep nearly always and whose every
/// millisecond is a millimetre on the belt. Threads it starts are ordinary again. Without the right to it, nice
/// [`BELT`] is taken.
#[allow(unsafe_code)] // a system call on plain numbers
pub fn real_time() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 names the calling thread, and the call only reads `lowest`.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &lowest) != 0 };
    if refused {
        tracing::debug!("real-time scheduling was refused: {}", std::io::Error::last_os_error());
        set(BELT);
    }
}
