//! A chart: p50 by size, both axes logarithmic, a panel for each placement, a line for each system.
//!
//! Text is left to whoever shows the picture: no font is looked for here.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::json::{Document, Run};
use super::table::wire_names;
use crate::subject::System;

const WIDTH: u32 = 960;
const TITLE_HEIGHT: u32 = 66;
const PANEL_HEIGHT: u32 = 430;
const MARGIN: u32 = 12;
/// To the right of each plot, so that the legend never lies over a line.
const LEGEND_WIDTH: u32 = 216;
const FONT: &str = "sans-serif";

/// Colours that differ for those who see fewer (Okabe and Ito), dark enough for thin lines.
const UNDER_TEST: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 140, 105), RGBColor(180, 85, 140)];
const FLOORS: [RGBColor; 2] = [RGBColor(70, 70, 70), RGBColor(150, 150, 150)];

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a document.
///
/// # Errors
/// There is nothing to draw, or the backend fails, as a sentence.
pub fn draw(document: &Document) -> Result<String, String> {
    let mut placements: Vec<&str> = document.runs.iter().map(|run| run.placement.as_str()).collect();
    placements.dedup();
    if placements.is_empty() {
        return Err("there are no runs to draw".to_owned());
    }
    let mut picture = String::new();
    // One range for all panels, so that placements can be compared by eye.
    let range = decade_steps(&document.runs);
    let height = TITLE_HEIGHT + PANEL_HEIGHT * placements.len() as u32;
    {
        let root = SVGBackend::with_string(&mut picture, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(sentence)?;
        let (head, body) = root.split_vertically(TITLE_HEIGHT);
        title(&head, document)?;
        for (panel, placement) in body.split_evenly((placements.len(), 1)).iter().zip(placements) {
            let runs: Vec<&Run> = document.runs.iter().filter(|run| run.placement == placement).collect();
            draw_panel(panel, placement, &runs, range)?;
        }
        root.present().map_err(sentence)?;
    }
    Ok(picture)
}

fn title(area: &Panel<'_>, document: &Document) -> Result<(), String> {
    let host = &document.host;
    let run = document.runs.first();
    let pace = run.map_or(String::new(), |run| match (run.rate_per_s, run.in_flight) {
        (Some(rate), _) => format!(", open loop at {rate}/s"),
        (None, in_flight) => format!(", {} in flight", in_flight.unwrap_or(1)),
    });
    let wires = wire_names(document.runs.iter());
    let way = run.map_or(String::new(), |run| format!("{wires}, {}", run.topology));
    let what = format!("Round trip by message size: {way}{pace}");
    let machine =
        format!("{}, {} cores, Linux {}, {}", host.cpu_model, host.cores_allowed, host.kernel, host.date);
    let centred =
        |size: u32| (FONT, size).into_font().into_text_style(area).pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (WIDTH / 2) as i32;
    area.draw_text(&what, &centred(20), (middle, 24)).map_err(sentence)?;
    area.draw_text(&machine, &centred(12).color(&RGBColor(90, 90, 90)), (middle, 50)).map_err(sentence)
}

fn draw_panel(
    panel: &Panel<'_>,
    placement: &str,
    runs: &[&Run],
    (low, high): (f64, f64),
) -> Result<(), String> {
    let (plot, legend_area) = panel.split_horizontally(WIDTH - LEGEND_WIDTH);
    let sizes = sizes(runs);
    let across = axis_range(&sizes).log_scale().with_key_points(sizes.clone());
    let up = (low..high).log_scale().with_key_points(steps(low, high));
    let mut chart = ChartBuilder::on(&plot)
        .caption(format!("placement {placement}"), (FONT, 15))
        .margin(MARGIN)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(across, up)
        .map_err(sentence)?;
    chart
        .configure_mesh()
        .bold_line_style(RGBColor(222, 222, 222))
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(120, 120, 120))
        .label_style((FONT, 12))
        .axis_desc_style((FONT, 13))
        .x_labels(sizes.len())
        .y_labels(steps(low, high).len())
        .x_label_formatter(&|size| size_label(*size))
        .y_label_formatter(&|us| format!("{us}"))
        .x_desc("body, bytes (Ki = 1024)")
        .y_desc("p50, microseconds")
        .draw()
        .map_err(sentence)?;
    let lines = lines(runs);
    for Line { colour, points, .. } in &lines {
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        chart.draw_series(line).map_err(sentence)?;
        let markers = points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(markers).map_err(sentence)?;
    }
    legend(&legend_area, &lines)
}

fn legend(area: &Panel<'_>, lines: &[Line]) -> Result<(), String> {
    /// Where the frame of the plot beside it begins: below margin and caption.
    const TOP: i32 = 40;
    const LINE_HEIGHT: i32 = 20;
    for (line, y) in lines.iter().zip((TOP..).step_by(LINE_HEIGHT as usize)) {
        let sample = PathElement::new([(0, y), (22, y)], line.colour.stroke_width(3));
        area.draw(&sample).map_err(sentence)?;
        let style = (FONT, 13).into_font().into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&line.name, &style, (30, y)).map_err(sentence)?;
    }
    Ok(())
}

/// What is drawn of one system.
struct Line {
    name: String,
    colour: RGBColor,
    /// Size in bytes and p50 in microseconds, by size.
    points: Vec<(f64, f64)>,
}

/// A line for each system, in the order of the runs.
fn lines(runs: &[&Run]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut under_test, mut floors) = (UNDER_TEST.iter().cycle(), FLOORS.iter().cycle());
    for run in runs {
        let name = run.name();
        let point = (run.size as f64, run.rtt_us.p50.max(f64::MIN_POSITIVE));
        if let Some(line) = lines.iter_mut().find(|line| line.name == name) {
            line.points.push(point);
            continue;
        }
        let colours = if run.system == System::Floor { &mut floors } else { &mut under_test };
        // Both lists repeat without end, so there is always a next colour.
        let colour = colours.next().copied().unwrap_or(BLACK);
        lines.push(Line { name, colour, points: vec![point] });
    }
    for line in &mut lines {
        line.points.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    lines
}

fn sizes(runs: &[&Run]) -> Vec<f64> {
    let mut sizes: Vec<f64> = runs.iter().map(|run| run.size as f64).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    sizes
}

/// From below the smallest size to above the largest, so that no marker sits on the frame.
fn axis_range(sizes: &[f64]) -> std::ops::Range<f64> {
    let smallest = sizes.first().copied().unwrap_or(1.0);
    let largest = sizes.last().copied().unwrap_or(1.0);
    smallest / 1.5..largest * 1.5
}

/// The 1-2-5 steps that enclose all p50s.
fn decade_steps(runs: &[Run]) -> (f64, f64) {
    let p50s = || runs.iter().map(|run| run.rtt_us.p50).filter(|p50| *p50 > 0.0);
    let smallest = p50s().fold(f64::INFINITY, f64::min).clamp(0.01, 1e9);
    let largest = p50s().fold(0.0, f64::max).clamp(0.01, 1e9);
    let all = steps(1e-3, 1e11);
    let low = all.iter().rev().copied().find(|step| *step < smallest).unwrap_or(1e-3);
    let high = all.iter().copied().find(|step| *step > largest * 1.2).unwrap_or(1e11);
    (low, high)
}

/// 1, 2, 5, 10, 20, 50... from `low` to `high`.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    // From text, so that 0.2 is the number that prints as 0.2 and not 0.2000...1.
    let step = |digit: u32, decade: i32| format!("{digit}e{decade}").parse().unwrap_or(f64::NAN);
    let all = decades.flat_map(|decade| [1, 2, 5].map(|digit| step(digit, decade)));
    all.filter(|step| (low..=high).contains(step)).collect()
}

fn size_label(size: f64) -> String {
    let bytes = size.round() as u64;
    match bytes {
        0..1024 => bytes.to_string(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}Mi", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}Ki", bytes >> 10),
        _ => bytes.to_string(),
    }
}

fn sentence(error: impl Display) -> String {
    format!("the chart cannot be drawn: {error}")
}
