//! A table in Markdown.

pub(crate) struct Table {
    text: String,
}

/// What stands in a row, or why it cannot be said.
type Cell = Result<String, String>;

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        let rule = "|---".repeat(heads.len());
        let heads = heads.join(" | ");
        Self {
            text: format!("| {heads} |\n{rule}|\n"),
        }
    }

    pub(crate) fn row<const N: usize>(
        &mut self,
        what: &str,
        cells: &[Cell; N],
    ) -> Result<(), String> {
        let cells: Vec<&str> = cells
            .iter()
            .map(|cell| cell.as_deref().map_err(Clone::clone))
            .collect::<Result<_, String>>()?;
        self.text += &format!("| {what} | {} |\n", cells.join(" | "));
        Ok(())
    }

    /// A row about both clients as they are by default, in a table that has their other settings too.
    pub(crate) fn defaults(&mut self, what: &str, cells: &[Cell; 2]) -> Result<(), String> {
        let [ours, theirs] = cells.clone();
        let nothing = || Ok(String::new());
        self.row(what, &[ours, nothing(), theirs, nothing()])
    }

    pub(crate) fn text(self) -> String {
        self.text
    }
}

/// Two digits or three, as people say it.
pub(crate) fn time(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}
