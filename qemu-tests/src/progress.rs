//! Long steps as lines: `[3/9] kube-apiserver … 02:14 of about 03:45`.
//!
//! On a terminal one line counts up in place; elsewhere a step has a line at its start, one a minute, and one at its end. Several
//! steps may run at once: the line names them all. [`render`] is pure; a thread of [`Progress`] wakes to print.
//! Absent: colours, and any guess about steps that gave no estimate.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(500);
const PLAIN_TICK: Duration = Duration::from_secs(60);

pub struct Progress {
    shared: Arc<Shared>,
    ticker: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    terminal: bool,
}

struct State {
    total: usize,
    begun: usize,
    running: Vec<Running>,
    /// Characters of the line that stands on the terminal now.
    shown: usize,
    end: bool,
    out: Box<dyn Write + Send>,
}

#[derive(Debug, Clone)]
struct Running {
    number: usize,
    name: String,
    start: Instant,
    estimate: Option<Duration>,
    last_line: Instant,
}

/// A step that is under way; dropping it without [`Step::done`] says that it failed.
pub struct Step {
    shared: Arc<Shared>,
    number: usize,
    finished: bool,
}

impl Progress {
    /// To standard error, since standard output carries what a command was asked for.
    pub fn new(total: usize) -> Self {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        Self::to(total, Box::new(stderr), terminal)
    }

    pub fn to(total: usize, out: Box<dyn Write + Send>, terminal: bool) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                total,
                begun: 0,
                running: Vec::new(),
                shown: 0,
                end: false,
                out,
            }),
            wake: Condvar::new(),
            terminal,
        });
        let ticking = Arc::clone(&shared);
        let ticker = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || ticking.tick_until_end())
            .ok();
        Self { shared, ticker }
    }

    /// More steps became known.
    pub fn add(&self, steps: usize) {
        self.shared.lock().total += steps;
    }

    pub fn step(&self, name: &str, estimate: Option<Duration>) -> Step {
        let mut state = self.shared.lock();
        state.begun += 1;
        let now = Instant::now();
        let running = Running {
            number: state.begun,
            name: name.to_owned(),
            start: now,
            estimate,
            last_line: now,
        };
        let number = running.number;
        if !self.shared.terminal {
            let about = estimate.map_or(String::new(), |time| format!(" (about {})", clock(time)));
            let total = state.total;
            state.line(&format!("[{number}/{total}] {name} …{about}"));
        }
        state.running.push(running);
        self.shared.draw(&mut state);
        Step {
            shared: Arc::clone(&self.shared),
            number,
            finished: false,
        }
    }

    /// A line of its own, above the counting one.
    pub fn say(&self, text: &str) {
        let mut state = self.shared.lock();
        state.line(text);
        self.shared.draw(&mut state);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.wake.notify_all();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}

impl Step {
    pub fn done(mut self) {
        self.finish("");
    }

    /// Done at once, from a cache.
    pub fn cached(mut self) {
        self.finish(" (cached)");
    }

    fn finish(&mut self, remark: &str) {
        self.finished = true;
        let mut state = self.shared.lock();
        let Some(index) = state
            .running
            .iter()
            .position(|step| step.number == self.number)
        else {
            return;
        };
        let step = state.running.remove(index);
        let line = format!(
            "[{}/{}] {} {}{remark}",
            step.number,
            state.total,
            step.name,
            clock(step.start.elapsed())
        );
        state.line(&line);
        self.shared.draw(&mut state);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(" failed");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick_until_end(&self) {
        let mut state = self.lock();
        while !state.end {
            let (next, _) = self
                .wake
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if self.terminal {
                self.draw(&mut state);
            } else {
                state.plain_lines(Instant::now());
            }
        }
    }

    fn draw(&self, state: &mut State) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        let steps: Vec<_> = state.running.iter().map(|step| step.view(now)).collect();
        let text = render(state.total, &steps);
        let length = text.chars().count();
        let blanks = " ".repeat(state.shown.saturating_sub(length));
        let _ = write!(state.out, "\r{text}{blanks}\r");
        let _ = state.out.flush();
        state.shown = length;
    }
}

impl State {
    fn line(&mut self, text: &str) {
        let blanks = " ".repeat(self.shown.saturating_sub(text.chars().count()));
        let _ = writeln!(self.out, "{text}{blanks}");
        self.shown = 0;
    }

    fn plain_lines(&mut self, now: Instant) {
        let total = self.total;
        let mut lines = Vec::new();
        for step in &mut self.running {
            if now.duration_since(step.last_line) >= PLAIN_TICK {
                step.last_line = now;
                lines.push(render(total, &[step.view(now)]));
            }
        }
        for line in lines {
            self.line(&line);
        }
    }
}

impl Running {
    fn view(&self, now: Instant) -> View {
        View {
            number: self.number,
            name: self.name.clone(),
            elapsed: now.duration_since(self.start),
            estimate: self.estimate,
        }
    }
}

#[derive(Debug, Clone)]
pub struct View {
    pub number: usize,
    pub name: String,
    pub elapsed: Duration,
    pub estimate: Option<Duration>,
}

/// The steps under way on one line; empty when there are none.
pub fn render(total: usize, steps: &[View]) -> String {
    let parts: Vec<String> = steps
        .iter()
        .map(|step| {
            let about = step
                .estimate
                .map_or(String::new(), |time| format!(" of about {}", clock(time)));
            format!(
                "[{}/{total}] {} … {}{about}",
                step.number,
                step.name,
                clock(step.elapsed)
            )
        })
        .collect();
    parts.join("  ")
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shown {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_line_names_every_step_under_way() {
        let view = |number, name: &str, elapsed, estimate: Option<u64>| View {
            number,
            name: name.to_owned(),
            elapsed: Duration::from_secs(elapsed),
            estimate: estimate.map(Duration::from_secs),
        };
        let steps = [
            view(3, "kube-apiserver", 134, Some(225)),
            view(4, "runc", 5, None),
        ];
        assert_eq!(
            render(9, &steps),
            "[3/9] kube-apiserver … 02:14 of about 03:45  [4/9] runc … 00:05"
        );
    }

    #[test]
    fn without_a_terminal_a_step_has_a_first_and_a_last_line() {
        let shown = Shown::default();
        let progress = Progress::to(2, Box::new(shown.clone()), false);
        progress
            .step("kernel", Some(Duration::from_secs(75)))
            .done();
        drop(progress.step("image", None));
        progress.say("note");
        drop(progress);
        assert_eq!(
            shown.text(),
            "[1/2] kernel … (about 01:15)\n[1/2] kernel 00:00\n[2/2] image …\n[2/2] image 00:00 failed\nnote\n"
        );
    }

    #[test]
    fn on_a_terminal_finished_lines_stay_and_leave_no_rest() {
        let shown = Shown::default();
        let progress = Progress::to(1, Box::new(shown.clone()), true);
        progress
            .step("a-long-name", Some(Duration::from_secs(60)))
            .cached();
        drop(progress);
        let text = shown.text();
        assert!(
            text.contains("\r[1/1] a-long-name … 00:00 of about 01:00\r"),
            "{text:?}"
        );
        assert!(
            text.contains("[1/1] a-long-name 00:00 (cached)  "),
            "{text:?}"
        );
    }
}
