//! The run as a picture.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::load::Class;
use crate::script::Incident;
use crate::stage::NAMES;
use crate::timeline::Moment;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What the picture shows.
pub(crate) struct Picture<'a> {
    pub(crate) title: &'a str,
    pub(crate) began: tokio::time::Instant,
    pub(crate) moments: &'a [Moment],
    pub(crate) incidents: &'a [Incident],
}

impl Picture<'_> {
    /// Four panels over one time: rate, latency, who served, what failed; the faults as bands.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let end = self.moments.last().ok_or("nothing was measured")?.at;
        let time = 0.0..end.as_secs_f64();
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(self.title, ("sans-serif", 20))?;
        let [rate, latency, active, errors] =
            <[Area<'_>; 4]>::try_from(root.split_by_breakpoints([] as [i32; 0], BREAKS))
                .map_err(|_| "four panels")?;
        self.rate(&rate, time.clone())?;
        self.latency(&latency, time.clone())?;
        self.active(&active, time.clone())?;
        self.errors(&errors, time)?;
        root.present()?;
        Ok(())
    }

    fn rate(&self, area: &Area<'_>, time: Range<f64>) -> Result<(), Failure> {
        let most = self.moments.iter().map(Moment::rate).fold(1.0, f64::max);
        let mut chart = panel(area)
            .x_label_area_size(0)
            .build_cartesian_2d(time, 0.0..most * 1.25)?;
        let bands = self.bands(0.0, most * 1.25);
        chart.draw_series(bands)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .y_desc("calls/s")
            .y_labels(4)
            .y_label_formatter(&|rate| format!("{:.0} k", rate / 1000.0))
            .draw()?;
        chart.draw_series(LineSeries::new(
            self.moments.iter().map(|m| (seconds(m.at), m.rate())),
            BLUE.stroke_width(1),
        ))?;
        let style = TextStyle::from(("sans-serif", 12).into_font()).color(&BLACK);
        chart.draw_series(self.incidents.iter().map(|incident| {
            let at = seconds(incident.at - self.began);
            Text::new(incident.fault.to_string(), (at, most * 1.2), style.clone())
        }))?;
        Ok(())
    }

    /// On a scale where each line is ten times the one below: an outage and a usual call differ by
    /// a thousand.
    fn latency(&self, area: &Area<'_>, time: Range<f64>) -> Result<(), Failure> {
        let (least, most) = (0.01, 1000.0);
        let mut chart = panel(area)
            .x_label_area_size(0)
            .build_cartesian_2d(time, (least..most).log_scale())?;
        chart.draw_series(self.bands(least, most))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .y_desc("ms to an answer")
            .y_label_formatter(&|ms| ms.to_string())
            .draw()?;
        for (name, color, of) in [
            ("median", &BLUE, (|m| m.p50) as fn(&Moment) -> Duration),
            ("99th percentile", &RED, |m| m.p99),
        ] {
            // Where no call ended there is no latency, and no line.
            let points = self.moments.iter().filter(|m| !of(m).is_zero());
            let points = points.map(|m| (seconds(m.at), seconds(of(m)) * 1e3));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(1)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 11))
            .draw()?;
        Ok(())
    }

    fn active(&self, area: &Area<'_>, time: Range<f64>) -> Result<(), Failure> {
        let rows = NAMES.len() as f64;
        let mut chart = panel(area)
            .x_label_area_size(0)
            .build_cartesian_2d(time, 0.0..rows)?;
        chart.draw_series(self.bands(0.0, rows))?;
        chart
            .configure_mesh()
            .disable_mesh()
            .y_desc("active")
            .y_labels(0)
            .draw()?;
        for (row, name) in NAMES.iter().rev().enumerate() {
            let bottom = row as f64;
            let serving = self
                .moments
                .iter()
                .filter(|m| m.active.as_deref() == Some(*name));
            chart.draw_series(serving.map(|m| {
                let (from, to) = (seconds(m.at.saturating_sub(m.lasted)), seconds(m.at));
                let corners = [(from, bottom + 0.15), (to, bottom + 0.85)];
                Rectangle::new(corners, Palette99::pick(row + 2).filled())
            }))?;
            let style = TextStyle::from(("sans-serif", 12).into_font()).color(&BLACK);
            chart.draw_series([Text::new(*name, (0.05, bottom + 0.75), style)])?;
        }
        Ok(())
    }

    fn errors(&self, area: &Area<'_>, time: Range<f64>) -> Result<(), Failure> {
        let most = self.moments.iter().flat_map(|m| m.counts.failed).max();
        let most = most.unwrap_or_default().max(10) as f64 * 1.2;
        let mut chart = panel(area)
            .x_label_area_size(28)
            .build_cartesian_2d(time, 0.0..most)?;
        chart.draw_series(self.bands(0.0, most))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_desc("seconds")
            .y_desc("failed calls")
            .y_labels(3)
            .draw()?;
        for (index, class) in Class::ALL.iter().enumerate() {
            let color = Palette99::pick(index);
            let failing = self.moments.iter().filter(|m| m.counts.failed[index] > 0);
            let bars = failing.map(|m| {
                let (at, count) = (seconds(m.at), m.counts.failed[index] as f64);
                PathElement::new([(at, 0.0), (at, count)], color.stroke_width(3))
            });
            let total: u64 = self.moments.iter().map(|m| m.counts.failed[index]).sum();
            chart
                .draw_series(bars)?
                .label(format!("{}: {total}", class.name()))
                .legend(move |(x, y)| {
                    PathElement::new(
                        [(x, y), (x + 14, y)],
                        Palette99::pick(index).stroke_width(3),
                    )
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 11))
            .draw()?;
        Ok(())
    }

    /// While something was broken.
    fn bands(&self, bottom: f64, top: f64) -> Vec<Rectangle<(f64, f64)>> {
        let end = self.moments.last().map_or(Duration::ZERO, |m| m.at);
        let bands = self.incidents.iter().map(|incident| {
            let from = incident.at - self.began;
            let to = incident.healed.map_or(end, |healed| healed - self.began);
            let color = if incident.fault.is_planned() {
                GREEN
            } else {
                RED
            };
            Rectangle::new(
                [(seconds(from), bottom), (seconds(to), top)],
                color.mix(0.12).filled(),
            )
        });
        bands.collect()
    }
}

fn panel<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart
        .margin_right(16)
        .margin_bottom(4)
        .y_label_area_size(64);
    chart
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

const SIZE: (u32, u32) = (960, 620);
/// Where a panel ends and the next begins.
const BREAKS: [i32; 3] = [200, 360, 430];
