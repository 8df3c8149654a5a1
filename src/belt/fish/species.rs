//! The species and what each looks like, as tables in units of the fish's length.

use serde::{Deserialize, Serialize};

/// The species on the belt; salmon is the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Species {
    /// Atlantic salmon.
    Salmon,
    /// Atlantic herring.
    Herring,
    /// Atlantic mackerel.
    Mackerel,
    /// European sea bass.
    SeaBass,
    /// European flounder.
    Flounder,
}

impl Species {
    /// Every species, in the order used for class lists.
    pub const ALL: [Species; 5] =
        [Species::Salmon, Species::Herring, Species::Mackerel, Species::SeaBass, Species::Flounder];

    /// Lower-case name, as in truths, folders and class lists.
    pub fn name(self) -> &'static str {
        match self {
            Species::Salmon => "salmon",
            Species::Herring => "herring",
            Species::Mackerel => "mackerel",
            Species::SeaBass => "sea_bass",
            Species::Flounder => "flounder",
        }
    }

    /// Shortest and longest, as a share of the picture's width.
    pub(super) fn lengths(self) -> (f32, f32) {
        match self {
            Species::Salmon => (0.29, 0.43),
            Species::Herring => (0.23, 0.33),
            Species::Mackerel => (0.25, 0.36),
            Species::SeaBass => (0.26, 0.40),
            Species::Flounder => (0.24, 0.36),
        }
    }

    /// Its colours and outline.
    pub(super) fn anatomy(self) -> &'static Anatomy {
        match self {
            Species::Salmon => &SALMON,
            Species::Herring => &HERRING,
            Species::Mackerel => &MACKEREL,
            Species::SeaBass => &SEA_BASS,
            Species::Flounder => &FLOUNDER,
        }
    }
}

/// Colours and outline of a species.
pub(super) struct Anatomy {
    /// (t, half depth) along the back; the body ends at the last t, where the tail begins.
    pub back: &'static [(f32, f32)],
    /// The same along the belly.
    pub belly: &'static [(f32, f32)],
    /// t of the tail's notch, half of its spread.
    pub tail: (f32, f32),
    /// (start t, end t, height, where its highest point lies between them); above 0 on the back, below 0 on the belly.
    pub fins: &'static [(f32, f32, f32, f32)],
    /// RGB, 0 to 255.
    pub back_colour: [f32; 3],
    pub side_colour: [f32; 3],
    pub belly_colour: [f32; 3],
    /// RGB and opacity, 0 to 255.
    pub fin_colour: [f32; 4],
    /// Radius.
    pub eye: f32,
}

const SALMON: Anatomy = Anatomy {
    back: &[
        (0.0, 0.005),
        (0.05, 0.042),
        (0.15, 0.072),
        (0.3, 0.098),
        (0.45, 0.104),
        (0.65, 0.076),
        (0.8, 0.046),
        (0.88, 0.042),
    ],
    belly: &[
        (0.0, 0.008),
        (0.05, 0.038),
        (0.15, 0.072),
        (0.3, 0.102),
        (0.45, 0.106),
        (0.65, 0.074),
        (0.8, 0.042),
        (0.88, 0.042),
    ],
    tail: (0.965, 0.105),
    fins: &[(0.4, 0.53, 0.075, 0.25), (0.73, 0.765, 0.03, 0.9), (0.66, 0.75, -0.06, 0.3), (0.5, 0.57, -0.045, 0.5)],
    back_colour: [74.0, 86.0, 96.0],
    side_colour: [168.0, 174.0, 178.0],
    belly_colour: [226.0, 226.0, 220.0],
    fin_colour: [88.0, 94.0, 98.0, 235.0],
    eye: 0.014,
};

const HERRING: Anatomy = Anatomy {
    back: &[
        (0.0, 0.006),
        (0.05, 0.036),
        (0.15, 0.062),
        (0.3, 0.08),
        (0.45, 0.082),
        (0.65, 0.058),
        (0.8, 0.03),
        (0.87, 0.024),
    ],
    belly: &[
        (0.0, 0.014),
        (0.05, 0.046),
        (0.15, 0.084),
        (0.3, 0.108),
        (0.45, 0.106),
        (0.65, 0.07),
        (0.8, 0.03),
        (0.87, 0.024),
    ],
    tail: (0.91, 0.105),
    fins: &[(0.44, 0.56, 0.06, 0.25), (0.7, 0.8, -0.028, 0.3), (0.5, 0.55, -0.035, 0.5)],
    back_colour: [62.0, 88.0, 110.0],
    side_colour: [182.0, 190.0, 196.0],
    belly_colour: [228.0, 230.0, 228.0],
    fin_colour: [140.0, 146.0, 148.0, 205.0],
    eye: 0.021,
};

const MACKEREL: Anatomy = Anatomy {
    back: &[
        (0.0, 0.004),
        (0.06, 0.036),
        (0.18, 0.07),
        (0.33, 0.088),
        (0.48, 0.084),
        (0.65, 0.052),
        (0.8, 0.02),
        (0.88, 0.014),
    ],
    belly: &[
        (0.0, 0.006),
        (0.06, 0.038),
        (0.18, 0.074),
        (0.33, 0.094),
        (0.48, 0.088),
        (0.65, 0.052),
        (0.8, 0.02),
        (0.88, 0.014),
    ],
    tail: (0.91, 0.11),
    fins: &[
        (0.32, 0.43, 0.06, 0.15),
        (0.56, 0.64, 0.035, 0.2),
        (0.68, 0.7, 0.016, 0.6),
        (0.73, 0.75, 0.014, 0.6),
        (0.78, 0.8, 0.012, 0.6),
        (0.58, 0.66, -0.035, 0.2),
        (0.7, 0.72, -0.015, 0.6),
        (0.76, 0.78, -0.013, 0.6),
    ],
    back_colour: [48.0, 92.0, 98.0],
    side_colour: [156.0, 176.0, 176.0],
    belly_colour: [228.0, 230.0, 222.0],
    fin_colour: [88.0, 100.0, 102.0, 220.0],
    eye: 0.017,
};

const SEA_BASS: Anatomy = Anatomy {
    back: &[
        (0.0, 0.006),
        (0.05, 0.04),
        (0.15, 0.082),
        (0.28, 0.112),
        (0.42, 0.112),
        (0.62, 0.08),
        (0.78, 0.048),
        (0.87, 0.044),
    ],
    belly: &[
        (0.0, 0.012),
        (0.05, 0.042),
        (0.15, 0.08),
        (0.28, 0.106),
        (0.42, 0.11),
        (0.62, 0.082),
        (0.78, 0.046),
        (0.87, 0.044),
    ],
    tail: (0.945, 0.11),
    fins: &[(0.3, 0.49, 0.075, 0.35), (0.53, 0.68, 0.06, 0.15), (0.6, 0.7, -0.06, 0.25), (0.3, 0.37, -0.055, 0.6)],
    back_colour: [92.0, 98.0, 98.0],
    side_colour: [164.0, 168.0, 166.0],
    belly_colour: [224.0, 222.0, 212.0],
    fin_colour: [120.0, 120.0, 112.0, 225.0],
    eye: 0.02,
};

const FLOUNDER: Anatomy = Anatomy {
    back: &[
        (0.0, 0.01),
        (0.06, 0.07),
        (0.15, 0.13),
        (0.3, 0.195),
        (0.45, 0.21),
        (0.62, 0.155),
        (0.77, 0.06),
        (0.84, 0.038),
    ],
    belly: &[
        (0.0, 0.012),
        (0.06, 0.065),
        (0.15, 0.13),
        (0.3, 0.195),
        (0.45, 0.215),
        (0.62, 0.155),
        (0.77, 0.06),
        (0.84, 0.038),
    ],
    tail: (0.995, 0.075),
    fins: &[(0.08, 0.79, 0.06, 0.55), (0.2, 0.79, -0.06, 0.45)],
    back_colour: [104.0, 92.0, 72.0],
    side_colour: [122.0, 108.0, 82.0],
    belly_colour: [112.0, 98.0, 76.0],
    fin_colour: [96.0, 84.0, 66.0, 235.0],
    eye: 0.017,
};
