//! What callers that never finish their line cost the others.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Twice what the agent reads at once.
pub const WRITERS: usize = 512;
/// Between two bytes, and before somebody who was cut off comes again.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `work` while they write.
pub fn during<T>(socket: &Path, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| write(socket, &over))).collect();
        // Let all of them be there.
        thread::sleep(PAUSE * 2);
        let done = work();
        over.store(true, Ordering::Relaxed);
        drop(writers);
        done
    })
}

fn write(socket: &Path, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            while !over.load(Ordering::Relaxed) && stream.write_all(b"{").is_ok() {
                thread::sleep(PAUSE);
            }
        }
        thread::sleep(PAUSE);
    }
}
