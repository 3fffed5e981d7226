//! A fixed amount of work in a process of its own, to be counted from outside by valgrind.
//!
//! It runs twice, the second time with twice the requests: the difference is what requests cost,
//! without start and end. The server runs outside.

use crate::clients::{Habit, Shape, bare, drive, ours};
use crate::valgrind::Count;

/// Marks the process that is counted.
pub(crate) const COUNTED: &str = "--counted";

/// What a counted process does.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) connection: Connection,
    pub(crate) shape: Shape,
    pub(crate) habit: Habit,
    pub(crate) tasks: usize,
    pub(crate) requests: usize,
    pub(crate) url: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Connection {
    Bare,
    Ours,
}

impl Work {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let [connection, shape, size, habit, tasks, requests, url] = args else {
            return Err(format!("{COUNTED} takes seven values, not {args:?}"));
        };
        let number = |text: &str| text.parse().map_err(|_| format!("not a number: {text}"));
        Ok(Self {
            connection: match connection.as_str() {
                "bare" => Connection::Bare,
                "ours" => Connection::Ours,
                unknown => return Err(format!("no connection is called {unknown}")),
            },
            shape: match shape.as_str() {
                "value" => Shape::Value(number(size)?),
                "pipeline" => Shape::Pipeline(number(size)?),
                unknown => return Err(format!("no shape is called {unknown}")),
            },
            habit: match habit.as_str() {
                "keep" => Habit::Keep,
                "clone" => Habit::ClonePerCommand,
                unknown => return Err(format!("no habit is called {unknown}")),
            },
            tasks: number(tasks)?,
            requests: number(requests)?,
            url: url.clone(),
        })
    }

    fn args(&self) -> Vec<String> {
        let connection = match self.connection {
            Connection::Bare => "bare",
            Connection::Ours => "ours",
        };
        let (shape, size) = match self.shape {
            Shape::Value(bytes) => ("value", bytes),
            Shape::Pipeline(commands) => ("pipeline", commands),
        };
        let habit = match self.habit {
            Habit::Keep => "keep",
            Habit::ClonePerCommand => "clone",
        };
        vec![
            COUNTED.to_owned(),
            connection.to_owned(),
            shape.to_owned(),
            size.to_string(),
            habit.to_owned(),
            self.tasks.to_string(),
            self.requests.to_string(),
            self.url.clone(),
        ]
    }

    /// The work itself, in the process that is counted.
    pub(crate) fn run(self) -> Result<(), String> {
        // The C library takes short cuts while a process has but one thread. Hardly any has: ours
        // starts one, and so does the first lookup of a host name.
        std::thread::spawn(std::thread::park);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async {
            let Self {
                connection,
                shape,
                habit,
                tasks,
                requests,
                url,
            } = self;
            match connection {
                Connection::Bare => drive(&bare(&url).await, shape, habit, tasks, requests).await,
                Connection::Ours => drive(&ours(&url).await, shape, habit, tasks, requests).await,
            }
        });
        Ok(())
    }

    /// What a request costs of what is counted, in all threads of the process.
    pub(crate) fn per_request(&self, count: Count) -> Result<f64, String> {
        let longer = Self {
            requests: 2 * self.requests,
            ..self.clone()
        };
        let (once, twice) = (count.of(&self.args())?, count.of(&longer.args())?);
        Ok((twice as f64 - once as f64) / self.requests as f64)
    }
}
