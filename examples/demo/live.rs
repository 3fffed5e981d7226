//! The live view: draws ten times a second and reads the keyboard, on a thread of its own.

mod view;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use multidb::MultiDbClient;
use multidb::redis::Redis;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::screen::Screen;
use crate::script::Command;
use crate::stage::{Fault, NAMES};

/// The terminal is given back when it is dropped.
pub(crate) struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What is on the screen beside what the client and the [`Screen`] know.
struct Stand {
    screen: Arc<Screen>,
    client: MultiDbClient<Redis>,
    faults: &'static [Fault],
    /// The database that keys act on.
    selected: usize,
    commands: UnboundedSender<Command>,
    /// Ctrl-C, which a terminal in raw mode hands over as a key.
    interrupt: CancellationToken,
}

const FRAME: Duration = Duration::from_millis(100);

impl Live {
    pub(crate) fn start(
        screen: Arc<Screen>,
        client: MultiDbClient<Redis>,
        faults: &'static [Fault],
        commands: UnboundedSender<Command>,
        interrupt: CancellationToken,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut terminal = ratatui::try_init()?;
        let stand = Stand {
            screen,
            client,
            faults,
            selected: 0,
            commands,
            interrupt,
        };
        let run = move || {
            // A terminal that cannot be drawn on any more is nothing to fail for.
            let _ = stand.run(&mut terminal, &stopped);
            ratatui::restore();
        };
        let thread = std::thread::Builder::new().name("demo-live".to_owned());
        let thread = thread.spawn(run).inspect_err(|_| ratatui::restore())?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Stand {
    fn run(mut self, terminal: &mut DefaultTerminal, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            terminal.draw(|frame| view::draw(frame, &self))?;
            while event::poll(FRAME)? {
                if let Event::Key(key) = event::read()? {
                    self.press(key);
                    break;
                }
            }
        }
        Ok(())
    }

    fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let whom = self.selected;
        let command = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return self.interrupt.cancel();
            }
            KeyCode::Tab | KeyCode::Up | KeyCode::Down => {
                self.selected = (whom + 1) % NAMES.len();
                return;
            }
            KeyCode::Char('q') | KeyCode::Esc => Command::End,
            KeyCode::Char('r') => Command::Relieve(whom),
            KeyCode::Char('+') => Command::Reweigh(whom, 0.5),
            KeyCode::Char('-') => Command::Reweigh(whom, -0.5),
            KeyCode::Char('s') => Command::SwitchTo(whom),
            KeyCode::Char('u') => Command::Unpin,
            KeyCode::Char(pressed) => {
                let known = FAULT_KEYS.iter().find(|(key, ..)| *key == pressed);
                match known.filter(|(_, fault, _)| self.faults.contains(fault)) {
                    Some((_, fault, _)) => Command::Inflict(whom, *fault),
                    None => return,
                }
            }
            _ => return,
        };
        // Nobody listens any more once the show is over.
        let _ = self.commands.send(command);
    }
}

/// With the short names they have at the bottom.
const FAULT_KEYS: [(char, Fault, &str); 5] = [
    ('k', Fault::Kill, "kill"),
    ('h', Fault::Hang, "hang"),
    ('b', Fault::BlackHole, "hole"),
    ('o', Fault::ReadOnly, "r/o"),
    ('l', Fault::Loading, "load"),
];
