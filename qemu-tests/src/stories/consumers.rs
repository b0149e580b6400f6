//! Real readers of nodes' metrics, for two minutes: [`crate::consumers`] says what must hold. Left out where their programs are not built, since
//! compiling them takes longer than all stories.

use std::time::Duration;

use anyhow::{Context, Result};

use super::kit::Stage;
use super::{Story, story};
use crate::{consumers, upstream};

const TIME: Duration = Duration::from_secs(120);

pub const STORIES: [Story; 1] = [Story {
    needs: upstream::CONSUMERS,
    ..story("prometheus-and-metrics-server", 420, scraped)
}];

fn scraped(stage: &Stage) -> Result<()> {
    let programs = consumers::cached()?.context("the programs were there a moment ago")?;
    consumers::run(stage, &programs, TIME)
}
