//! The ONNX writer's promises: ONNX Runtime computes what a plain forward pass computes, int8 stays close to float32,
//! and weights that don't fit are refused by name.
#![allow(clippy::unwrap_used)]

use beltsight::{
    network::{
        self, Activation, Block, Conv, Net, Norm,
        onnx::{self, Tensor, Weights},
    },
    student::engine::{Device, Engine, Outputs, Trunk, softmax},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 5;

/// Weights as a trained network has them: signals keep their size from layer to layer.
fn random_weights(net: &Net, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = Weights::new();
    let mut put = |name: String, shape: Vec<usize>, low: f32, high: f32| {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(low..high)).collect();
        weights.insert(name, Tensor { shape, data });
    };
    for conv in net.convs() {
        let fan_in = conv.inputs / conv.groups * conv.kernel * conv.kernel;
        let reach = (6.0 / fan_in as f32).sqrt();
        let shape = vec![conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel];
        put(format!("{}.weight", conv.name), shape, -reach, reach);
    }
    for (name, width, _) in net.blocks.iter().flat_map(Block::norm_weights) {
        let (low, high) = match name.rsplit('.').next() {
            Some("bias") => (-0.3, 0.5),
            Some("running_mean") => (-0.3, 0.3),
            _ => (0.5, 1.5),
        };
        put(name, vec![width], low, high);
    }
    let reach = 3.0 / (net.features as f32).sqrt();
    put("head.weight".into(), vec![CLASSES, net.features], -reach, reach);
    put("head.bias".into(), vec![CLASSES], -0.5, 0.5);
    weights
}

/// Discs on gradients: pictures with edges, areas and colours.
fn pictures(count: usize, side: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let mut draw = || rng.random::<f32>();
            let (cx, cy, radius) = (draw(), draw(), 0.1 + 0.3 * draw());
            let (disc, left, right) = ([draw(), draw(), draw()], [draw(), draw(), draw()], [draw(), draw(), draw()]);
            let mut picture = Vec::with_capacity(side * side * 3);
            for y in 0..side {
                for x in 0..side {
                    let (u, v) = (x as f32 / side as f32, y as f32 / side as f32);
                    let inside = (u - cx).hypot(v - cy) < radius;
                    for c in 0..3 {
                        let ground = left[c] * (1.0 - u) + right[c] * u;
                        picture.push((255.0 * if inside { disc[c] } else { ground }) as u8);
                    }
                }
            }
            picture
        })
        .collect()
}

/// Factor, mean and shift of a BatchNorm's channel.
fn batch_norm(net: &Net, name: &str, weights: &Weights, channel: usize) -> (f64, f64, f64) {
    let get = |part: &str| f64::from(weights[&format!("{name}.bn.{part}")].data[channel]);
    (get("weight") / (get("running_var") + net.bn_eps).sqrt(), get("running_mean"), get("bias"))
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Linear => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::LeakyRelu => x.max(0.1 * x),
    }
}

/// One convolution with live BatchNorm or its bias, and activation, written down as its definition; planes are `[channels][h][w]`.
fn convolve(net: &Net, conv: &Conv, weights: &Weights, input: &[f64], side: usize) -> (Vec<f64>, usize) {
    let get = |part: &str| &weights[&format!("{}.{part}", conv.name)].data;
    let (kernel, per_group) = (conv.kernel, conv.inputs / conv.groups);
    let [top, left, bottom, _] = conv.padding;
    let out_side = (side + top + bottom - kernel) / conv.stride + 1;
    let weight = get("weight");
    let mut output = Vec::with_capacity(conv.outputs * out_side * out_side);
    for o in 0..conv.outputs {
        let first = o / (conv.outputs / conv.groups) * per_group;
        let (scale, mean, shift) = match conv.norm {
            Norm::Bias => (1.0, 0.0, f64::from(get("bias")[o])),
            Norm::None => (1.0, 0.0, 0.0),
            Norm::Batch => batch_norm(net, &conv.name, weights, o),
        };
        for y in 0..out_side {
            for x in 0..out_side {
                let mut sum = 0.0;
                for i in 0..per_group {
                    for ky in 0..kernel {
                        for kx in 0..kernel {
                            let (sy, sx) = (y * conv.stride + ky, x * conv.stride + kx);
                            if sy < top || sx < left || sy - top >= side || sx - left >= side {
                                continue;
                            }
                            let pixel = input[((first + i) * side + sy - top) * side + sx - left];
                            sum += pixel * f64::from(weight[((o * per_group + i) * kernel + ky) * kernel + kx]);
                        }
                    }
                }
                let normed = (sum - mean) * scale + shift;
                output.push(activate(conv.activation, normed));
            }
        }
    }
    (output, out_side)
}

/// Embedding and logits of one picture, without ONNX.
fn forward(net: &Net, weights: &Weights, picture: &[u8]) -> (Vec<f64>, Vec<f32>) {
    let mut side = net.input;
    let mut planes = vec![0.0; picture.len()];
    for (i, byte) in picture.iter().enumerate() {
        let (mean, std) = (f64::from(net.mean[i % 3]), f64::from(net.std[i % 3]));
        planes[i % 3 * side * side + i / 3] = (f64::from(*byte) / 255.0 - mean) / std;
    }
    for block in &net.blocks {
        let (mut input, before) = (planes.clone(), side);
        if let Some(pre_activation) = &block.pre_activation {
            for (channel, plane) in planes.chunks_mut(side * side).enumerate() {
                let (factor, mean, shift) = batch_norm(net, &pre_activation.name, weights, channel);
                plane.iter_mut().for_each(|x| *x = activate(pre_activation.activation, (*x - mean) * factor + shift));
            }
        }
        for conv in &block.convs {
            (planes, side) = convolve(net, conv, weights, &planes, side);
        }
        if let Some(conv) = &block.shortcut {
            (input, _) = convolve(net, conv, weights, &input, before);
        }
        if block.skip {
            planes.iter_mut().zip(input).for_each(|(p, i)| *p += i);
        }
    }
    let area = side * side;
    let embedding: Vec<f64> = planes.chunks(area).map(|plane| plane.iter().sum::<f64>() / area as f64).collect();
    let (weight, bias) = (&weights["head.weight"].data, &weights["head.bias"].data);
    let logits = weight
        .chunks(net.features)
        .zip(bias)
        .map(|(row, b)| {
            (row.iter().zip(&embedding).map(|(w, e)| f64::from(*w) * e).sum::<f64>() + f64::from(*b)) as f32
        })
        .collect();
    (embedding, logits)
}

fn run(onnx: &[u8], pictures: &[Vec<u8>], batch: usize) -> Outputs {
    Engine::open(onnx, Device::Cpu, 1).unwrap().run_all(pictures, batch).unwrap()
}

fn probabilities(outputs: &Outputs, row: usize) -> Vec<f32> {
    softmax(&outputs.logits.row(row).to_vec(), 1.0)
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn onnx_runtime_computes_what_the_definition_computes() {
    let named = network::NAMES.map(|name| network::by_name(name, Some(32)).unwrap());
    for net in named.into_iter().chain([network::digits(&[40, 30], 0.5)]) {
        let name = net.name;
        let weights = random_weights(&net, 7);
        let pictures = pictures(3, net.input, 8);
        let outputs = run(&onnx::export(&net, &weights, CLASSES).unwrap(), &pictures, 3);
        assert_eq!(outputs.embedding.dim(), (3, net.features));
        for (row, picture) in pictures.iter().enumerate() {
            let (embedding, logits) = forward(&net, &weights, picture);
            let difference = largest_difference(&probabilities(&outputs, row), &softmax(&logits, 1.0));
            let embedding: Vec<f32> = embedding.iter().map(|e| *e as f32).collect();
            let of_embedding = largest_difference(&outputs.embedding.row(row).to_vec(), &embedding);
            println!("{name}: {difference:.2e} in probability, {of_embedding:.2e} in the embedding");
            assert!(difference <= 1e-4, "{name}: probabilities differ by {difference}");
            assert!(of_embedding <= 1e-3, "{name}: embeddings differ by {of_embedding}");
        }
        // The pictures are told apart at all, or agreement would mean nothing.
        assert!(largest_difference(&probabilities(&outputs, 0), &probabilities(&outputs, 1)) > 1e-3);
    }
}

#[test]
fn a_trunk_and_the_rest_make_the_whole() {
    let net = network::small(32);
    let weights = random_weights(&net, 7);
    let pictures = pictures(3, 32, 8);
    let blocks = net.blocks.len();
    let pooled = Trunk::open(&onnx::export_trunk(&net, &weights, blocks).unwrap(), 32).unwrap().run(&pictures).unwrap();
    let whole = run(&onnx::export(&net, &weights, CLASSES).unwrap(), &pictures, 3);
    assert_eq!(pooled.0, [3, 128, 1, 1]);
    assert!(largest_difference(&pooled.1, whole.embedding.as_slice().unwrap()) < 1e-5);
    let (shape, _) = Trunk::open(&onnx::export_trunk(&net, &weights, 2).unwrap(), 32).unwrap().run(&pictures).unwrap();
    let last = net.blocks[1].convs.last().unwrap();
    assert_eq!(shape, [3, last.outputs, 16, 16], "the stem halves the side, block 1 keeps it");
}

#[test]
fn a_graph_that_is_read_back_computes_the_same() {
    for (net, seed) in [(network::small(32), 3), (network::efficientnet_lite0(32), 4), (network::wrn_28_2(32), 5)] {
        let pictures = pictures(4, 32, seed);
        let graph = onnx::export(&net, &random_weights(&net, seed), CLASSES).unwrap();
        let (weights, classes) = onnx::read(&net, &graph).unwrap();
        assert_eq!(classes, CLASSES);
        let names = random_weights(&net, seed);
        assert_eq!(weights.keys().collect::<Vec<_>>(), names.keys().collect::<Vec<_>>(), "{}", net.name);
        let (before, after) =
            (run(&graph, &pictures, 4), run(&onnx::export(&net, &weights, CLASSES).unwrap(), &pictures, 4));
        let (before, after) = (before.logits.as_slice().unwrap(), after.logits.as_slice().unwrap());
        let largest = before.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        // One more rounding for every weight of some dozen layers.
        assert!(largest_difference(before, after) < 1e-5 * largest.max(1.0), "{}", net.name);
    }
}

#[test]
fn a_graph_of_another_network_is_not_read_back() {
    let graph = onnx::export(&network::small(32), &random_weights(&network::small(32), 1), CLASSES).unwrap();
    let refused = |net: &Net, bytes: &[u8]| onnx::read(net, bytes).unwrap_err().to_string();
    assert!(refused(&network::small_wide(32), &graph).contains("the network wants"));
    let other = refused(&network::efficientnet_lite0(32), &graph);
    assert!(other.contains("is missing") || other.contains("the network wants"), "{other}");
    assert!(refused(&network::small(32), &graph[..graph.len() / 2]).contains("no ONNX file of ours"));
    let int8 =
        onnx::quantize(&network::small(32), &random_weights(&network::small(32), 1), CLASSES, &pictures(2, 32, 1));
    assert!(refused(&network::small(32), &int8.unwrap()).contains("is missing"));
}

#[test]
fn every_batch_size_gives_the_same_rows() {
    let net = network::small(32);
    let weights = random_weights(&net, 1);
    let pictures = pictures(5, 32, 2);
    let int8 = onnx::quantize(&net, &weights, CLASSES, &pictures).unwrap();
    for (onnx, tolerance) in [(onnx::export(&net, &weights, CLASSES).unwrap(), 1e-5), (int8, 1e-5)] {
        let (one, five) = (run(&onnx, &pictures, 1), run(&onnx, &pictures, 5));
        for row in 0..5 {
            assert!(largest_difference(&probabilities(&one, row), &probabilities(&five, row)) <= tolerance);
        }
    }
}

#[test]
fn a_padded_session_gives_the_rows_that_were_asked_for() {
    let net = network::small(32);
    let bytes = onnx::export(&net, &random_weights(&net, 1), CLASSES).unwrap();
    let pictures = pictures(5, 32, 2);
    let plain = run(&bytes, &pictures, 5);
    let mut padded = Engine::open(&bytes, Device::Cpu, 1).unwrap().padded(4);
    for chunk in [1, 3, 4] {
        let found = padded.run_all(&pictures, chunk).unwrap();
        assert_eq!((found.logits.dim(), found.embedding.dim()), ((5, CLASSES), (5, net.features)));
        for row in 0..5 {
            assert!(largest_difference(&probabilities(&plain, row), &probabilities(&found, row)) <= 1e-5);
        }
    }
    let refusal = padded.run_all(&pictures, 5).unwrap_err().to_string();
    assert!(refusal.contains("a batch of 5 was given to a session for 4"), "{refusal}");
}

#[test]
fn int8_keeps_the_answers_of_float32() {
    let net = network::small(64);
    let weights = random_weights(&net, 3);
    let (seen, unseen) = (pictures(32, 64, 4), pictures(100, 64, 5));
    let float = run(&onnx::export(&net, &weights, CLASSES).unwrap(), &unseen, 10);
    let bytes = onnx::quantize(&net, &weights, CLASSES, &seen).unwrap();
    let int8 = run(&bytes, &unseen, 10);
    let rows = (0..unseen.len()).map(|row| (probabilities(&float, row), probabilities(&int8, row)));
    let (mut agree, mut largest) = (0, 0.0_f32);
    for (a, b) in rows {
        agree += usize::from(best(&a) == best(&b));
        largest = largest.max(largest_difference(&a, &b));
    }
    println!("int8: {agree} of {} answers agree, probabilities differ by at most {largest:.4}", unseen.len());
    // Random weights hardly tell pictures apart, so answers tip easily; trained ones keep more (`beltsight bench precision`).
    assert!(agree >= 90, "only {agree} of 100 answers agree");
    assert!(largest <= 0.15, "probabilities differ by {largest}");
    // Weights take a quarter: a file that kept them in float could not be this small.
    assert!(bytes.len() < onnx::export(&net, &weights, CLASSES).unwrap().len() / 2);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let net = network::small(32);
    let weights = random_weights(&net, 1);
    let refusal = |change: &dyn Fn(&mut Weights)| {
        let mut changed = weights.clone();
        change(&mut changed);
        let float = onnx::export(&net, &changed, CLASSES).map(|_| ()).unwrap_err().to_string();
        let int8 = onnx::quantize(&net, &changed, CLASSES, &pictures(1, 32, 0)).map(|_| ()).unwrap_err().to_string();
        assert_eq!(float, int8);
        float
    };
    let missing = refusal(&|w| drop(w.remove("block3.project.bn.running_var")));
    assert!(missing.contains("`block3.project.bn.running_var` is missing"), "{missing}");
    let ill_shaped = refusal(&|w| w.get_mut("head.weight").unwrap().shape = vec![CLASSES + 1, 128]);
    assert!(ill_shaped.contains("`head.weight`") && ill_shaped.contains("[6, 128]"), "{ill_shaped}");
    let not_finite = refusal(&|w| w.get_mut("stem.weight").unwrap().data[5] = f32::NAN);
    assert!(not_finite.contains("`stem.weight`"), "{not_finite}");
    assert!(onnx::quantize(&net, &weights, CLASSES, &[]).map(|_| ()).unwrap_err().to_string().contains("calibration"));
}

#[test]
fn a_cut_file_is_refused_in_words() {
    let net = network::small(32);
    let bytes = onnx::export(&net, &random_weights(&net, 1), CLASSES).unwrap();
    for cut in [0, bytes.len() / 3, bytes.len() - 1] {
        let refusal = Engine::open(&bytes[..cut], Device::Cpu, 1).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refusal.contains("ONNX graph can't be used"), "cut at {cut}: {refusal:?}");
    }
}
