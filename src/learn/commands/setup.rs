//! What every command of this program needs before it can train: options, pictures, a network to start from, views.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail, ensure};
use beltsight::{domain::hash::sha256, files::heartbeat, network as architectures};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    network::{
        device,
        model::{Model, to_batch},
        weights,
    },
    pictures::{
        augment::WeakAugmentation,
        data::{self, Dataset},
        views::{Augmenter, View, ViewSource},
    },
    training::{
        TrainError, feed::steps_per_pass, interrupt, method_plan::MethodPlan, plan::TrainingPlan, start::StartStudent,
    },
};

/// Largest cache of a frozen trunk's outputs in bytes.
const LARGEST_CACHE: usize = 6 << 30;

/// More change the statistics too little to be worth the time.
const ADAPT_PICTURES: usize = 512;

/// Pictures whose statistics a folded BatchNorm gets back; they go through a layer at once.
const UNFOLD_PICTURES: usize = 64;

/// Which part of the network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Trainable {
    /// The linear classifier on standardised embeddings.
    Head,
    /// The last blocks and the classifier.
    Last(usize),
    /// Everything.
    All,
}

impl std::str::FromStr for Trainable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("last:").and_then(|n| n.parse().ok())) {
            ("head", _) => Ok(Trainable::Head),
            ("all", _) => Ok(Trainable::All),
            (_, Some(n)) if n > 0 => Ok(Trainable::Last(n)),
            _ => Err("use head, last:<blocks> or all".into()),
        }
    }
}

/// Options of every command that trains.
#[derive(Args, Clone, Debug, Serialize)]
pub struct TrainingOptions {
    /// Folder with photos.csv or index.csv, or one folder of pictures per class.
    #[arg(long)]
    pub data: PathBuf,
    /// Folder of pictures without labels, with any folders in it.
    #[arg(long)]
    pub unlabeled: Option<PathBuf>,
    /// Folder for the run: config, metrics, checkpoints, report, weights.
    #[arg(long)]
    pub out: PathBuf,
    /// efficientnet_lite0, small, small_wide or wrn_28_2.
    #[arg(long, default_value = "efficientnet_lite0")]
    pub net: String,
    /// Side of the square input in pixels [default: the network's own, 224, 64 or 32].
    #[arg(long)]
    pub input: Option<usize>,
    /// Model folder of a student to go on from: its network, its weights with their head, its classes and what may pass.
    #[arg(long, conflicts_with_all = ["net", "input", "weights", "adapt"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Weights to start from [default: .vendor/weights/<net>.safetensors where there is one].
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// head, last:<blocks> or all [default: head on pretrained weights and of efficientnet_lite0, all otherwise].
    #[arg(long)]
    pub trainable: Option<Trainable>,
    /// Steps [default: supervised, 60 passes over the pictures for the head, 15 for pretrained blocks, 60 from scratch;
    /// with unlabeled pictures 1000, 400 and 3000].
    #[arg(long, conflicts_with = "epochs")]
    pub steps: Option<usize>,
    /// Passes over the labeled pictures, instead of steps.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Labeled pictures per step.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Peak learning rate [default: 0.01 for pretrained weights, 0.05 from scratch].
    #[arg(long)]
    pub lr: Option<f64>,
    /// Weight decay on kernels [default: 0.1 for the head in supervised training, 0.0005 otherwise].
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Share of every target that is spread over all classes, in supervised training.
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f64,
    /// Views per picture and kind that are cached when the trunk is frozen.
    #[arg(long, default_value_t = 4)]
    pub views: usize,
    /// Seed of splits, order, views and dropout.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Measure BatchNorm's statistics of pretrained weights again on the training pictures, labels unused (AdaBN).
    #[arg(long)]
    pub adapt: bool,
    /// Classes that may pass [default: those that the table marks with salmonid = 1].
    #[arg(long, value_delimiter = ',')]
    pub accept: Vec<String>,
    /// Threads of libtorch and of picture reading [default: all cores].
    #[arg(long)]
    pub threads: Option<usize>,
    /// cpu, cuda or cuda:<number>; a GPU trains whole networks (--trainable all), its convolutions in bfloat16.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Go on from the checkpoints in the output folder.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
}

/// At most `most` of `pictures`, evenly spread.
fn spread(pictures: &[Vec<u8>], most: usize) -> Vec<&[u8]> {
    pictures.iter().step_by(pictures.len().div_ceil(most).max(1)).map(Vec::as_slice).collect()
}

/// Data and the network to start from.
pub struct TrainingSetup {
    /// Pictures and labels.
    pub data: Dataset,
    /// The network, with a head of zeros, or with that of the student that it goes on from.
    pub start: Model,
    /// That student.
    pub from: Option<StartStudent>,
    /// Its classes among those of the data.
    pub known: Vec<usize>,
    /// Where its weights come from.
    pub started_from: String,
    /// Hash of their file; none for random ones.
    start_sha256: Option<String>,
    /// Which part will be trained.
    pub trainable: Trainable,
    /// Whether its trunk is pretrained.
    pretrained: bool,
}

impl TrainingOptions {
    /// Sets the number of threads, then as [`TrainingOptions::read`].
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn open(&self) -> anyhow::Result<TrainingSetup> {
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        tch::set_num_threads(threads as i32);
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        self.read()
    }

    /// Reads data and weights.
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn read(&self) -> anyhow::Result<TrainingSetup> {
        let from = self.from.as_deref().map(StartStudent::read).transpose().context("--from")?;
        let named = || {
            architectures::by_name(&self.net, self.input)
                .with_context(|| format!("network `{}` is unknown: use one of {:?}", self.net, architectures::NAMES))
        };
        let net = from.as_ref().map_or_else(named, |from| Ok(from.net.clone()))?;
        ensure!(net.input >= 32, "--input must be at least 32 pixels");
        ensure!(self.batch > 1 && self.views > 0, "--batch must be at least 2 and --views at least 1");
        let mut data = data::read(&self.data, net.input as u32, from.as_ref().map_or(&[], |from| &from.classes))?;
        if let Some(folder) = &self.unlabeled {
            data.add_unlabeled(folder, net.input as u32)?;
        }
        println!(
            "{} labeled pictures of {} classes, {} unlabeled, data {}",
            data.files.len(),
            data.classes.len(),
            data.pictures.len() - data.files.len(),
            &data.sha256[..12]
        );
        let path = self.weights.clone().or_else(|| weights::pretrained(&self.net)).filter(|_| from.is_none());
        let start = match (&from, &path) {
            (Some(from), _) => from.model(&data.classes).map_err(anyhow::Error::msg)?,
            (None, Some(path)) => Model::pretrained(&net, data.classes.len(), &weights::read(path)?.0)
                .map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?,
            (None, None) => Model::random(&net, data.classes.len(), self.seed),
        };
        let mut start = start.on(device::open(&self.device)?);
        let pretrained = from.is_some() || path.is_some();
        let start_sha256 = match &from {
            Some(from) => Some(from.sha256.clone()),
            None => path.as_ref().map(fs::read).transpose()?.map(|bytes| sha256(&bytes)),
        };
        // Where a file should be and is not, whole training from noise would be hours for a bad student.
        let meant_for_head = pretrained || net.name == weights::PUBLISHED;
        let trainable = self.trainable.unwrap_or(if meant_for_head { Trainable::Head } else { Trainable::All });
        if !pretrained && trainable != Trainable::All {
            bail!(
                "no pretrained weights of {} were found, so freezing its trunk would freeze noise: \
                 run deploy/setup --learn, give --weights, or use --trainable all",
                net.name
            );
        }
        if from.is_some() && trainable != Trainable::Head {
            start.unfold_norms(&spread(&data.pictures, UNFOLD_PICTURES));
        }
        let started_from = match (&from, path) {
            (Some(from), _) => from.version.clone(),
            (None, path) => path.map_or("random weights".into(), |path| path.display().to_string()),
        };
        println!("{} starts from {started_from}", net.name);
        let known = from.as_ref().map_or(Vec::new(), |from| from.known(&data.classes));
        Ok(TrainingSetup { data, start, from, known, started_from, start_sha256, trainable, pretrained })
    }

    /// With `--adapt`: fits the trunk's statistics to at most [`ADAPT_PICTURES`] of `training` and of the unlabeled
    /// pictures, never to any held out.
    ///
    /// # Errors
    /// [`TrainError::Stopped`].
    pub fn adapt(&self, setup: &mut TrainingSetup, training: &[usize]) -> anyhow::Result<()> {
        if !self.adapt {
            return Ok(());
        }
        let data = &setup.data;
        let all: Vec<usize> = training.iter().copied().chain(data.files.len()..data.pictures.len()).collect();
        let step = all.len().div_ceil(ADAPT_PICTURES);
        let chosen: Vec<&[u8]> = all.iter().step_by(step).map(|&i| data.pictures[i].as_slice()).collect();
        let go_on = || {
            heartbeat::beat();
            !interrupt::requested()
        };
        setup.start.adapt(&chosen, go_on);
        if interrupt::requested() { Err(TrainError::Stopped(self.out.clone()).into()) } else { Ok(()) }
    }

    /// The classes that may pass: as ordered, else by the table, else as with the student that it goes on from.
    ///
    /// # Errors
    /// When there are none, or all are.
    pub fn accepted(&self, setup: &TrainingSetup) -> anyhow::Result<Vec<String>> {
        let data = &setup.data;
        if let Some(unknown) = self.accept.iter().find(|class| !data.classes.contains(class)) {
            bail!("--accept names {unknown}; the classes are {}", data.classes.join(", "));
        }
        let of_table =
            if data.accept.is_empty() { setup.from.as_ref().map(|from| &from.thresholds.accept) } else { None };
        let accept = if self.accept.is_empty() { of_table.unwrap_or(&data.accept) } else { &self.accept }.clone();
        ensure!(!accept.is_empty(), "say which classes may pass: --accept with some of {}", data.classes.join(", "));
        ensure!(accept.len() < data.classes.len(), "all classes are accepted: there would be nothing to reject");
        Ok(accept)
    }

    /// The trainer's settings for `method` on `labeled` pictures.
    pub fn plan(&self, setup: &TrainingSetup, method: &MethodPlan, labeled: usize) -> TrainingPlan {
        let blocks = setup.start.net.blocks.len();
        let (cut, passes, steps, lr, weight_decay) = match (setup.trainable, setup.pretrained) {
            (Trainable::Head, _) => (blocks, 60, 1000, 0.01, 0.1),
            (Trainable::Last(n), _) => (blocks.saturating_sub(n), 15, 400, 0.01, 5e-4),
            (Trainable::All, true) => (0, 15, 400, 0.01, 5e-4),
            (Trainable::All, false) => (0, 60, 3000, 0.05, 5e-4),
        };
        // A head that learns from unlabeled pictures too needs less restraint: measured on NEU-DET, 4 labels per class, 0.1
        // cost FixMatch half a point and Noisy Student 2.6. One that goes on from a student is not to decay to nothing.
        let weight_decay = if method.uses_unlabeled() || setup.from.is_some() { 5e-4 } else { weight_decay };
        let per_pass = steps_per_pass(labeled, self.batch);
        let by_passes = |passes: usize| (passes * per_pass, per_pass);
        let (steps, pass) = match (self.steps, self.epochs) {
            (Some(steps), _) => (steps, (steps / 40).max(1)),
            (None, Some(passes)) => by_passes(passes),
            (None, None) if method.uses_unlabeled() => (steps, steps / 40),
            (None, None) => by_passes(passes),
        };
        TrainingPlan {
            cut,
            steps,
            pass,
            batch: self.batch,
            lr: self.lr.unwrap_or(lr),
            schedule: method.schedule(),
            weight_decay: self.weight_decay.unwrap_or(weight_decay),
            ema: 0.999,
            dropout: method.dropout(setup.start.net.dropout),
            survival: 1.0,
            seed: self.seed,
            identity: serde_json::json!([
                method,
                setup.data.sha256,
                setup.start_sha256,
                self.adapt,
                self.label_smoothing,
                self.views
            ])
            .to_string(),
        }
    }

    /// How pictures reach the trained part: fresh, or through the frozen trunk once for every kind of view in `kinds`.
    ///
    /// # Errors
    /// When the cache would not fit into memory; ONNX Runtime's; [`TrainError::Stopped`].
    pub fn views<'a>(&self, setup: &'a TrainingSetup, cut: usize, kinds: &[View]) -> anyhow::Result<ViewSource<'a>> {
        let (model, pictures) = (&setup.start, &setup.data.pictures);
        let side = model.net.input;
        let augmenter = Augmenter { pictures, side, weak: WeakAugmentation::for_side(side), seed: self.seed };
        if cut == 0 {
            return Ok(ViewSource::Fresh(augmenter));
        }
        let one = tch::no_grad(|| model.blocks(&to_batch(&[&pictures[0]], side), 0..cut, None));
        let count = pictures.len() * (self.views * kinds.len() + 1);
        let bytes = one.numel() * 4 * count;
        ensure!(
            bytes <= LARGEST_CACHE,
            "the frozen trunk's outputs would take {:.1} GB of memory: use fewer --views, --trainable head or all",
            bytes as f64 / 1e9
        );
        let bar = ProgressBar::new(count as u64).with_prefix("trunk");
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} views, {eta} left, {per_sec}")
        {
            bar.set_style(style);
        }
        let tick = |n: usize| {
            bar.inc(n as u64);
            heartbeat::beat();
            !interrupt::requested()
        };
        let views = ViewSource::cached(model, cut, &augmenter, (kinds, self.views), tick)?;
        bar.finish();
        Ok(views.ok_or_else(|| TrainError::Stopped(self.out.clone()))?)
    }
}
