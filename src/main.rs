//! The program: which command, and how it ended. What a command takes and does stands in its file under `cli`.

use std::process::ExitCode;

use anyhow::Result;
use beltsight::cli::{
    archive, belt, bench, camera, doctor, evaluate, labels, learn, models, record, restore, round, serve, tokens,
};
use clap::{Parser, Subcommand};

/// Pictures come and go between many threads: glibc keeps an arena for each and fragments it by tens of megabytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Doctor(doctor::DoctorArgs),
    Models(models::ModelsArgs),
    Tokens(tokens::TokensArgs),
    Round(round::RoundArgs),
    Evaluate(evaluate::EvaluateArgs),
    #[command(subcommand)]
    Belt(belt::BeltCommand),
    #[command(subcommand)]
    Camera(camera::CameraCommand),
    /// Train a student (runs beltsight-learn; see `beltsight train --help`).
    #[command(disable_help_flag = true)]
    Train(learn::LearnArgs),
    /// Teach a small student what a teacher knows (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Distill(learn::LearnArgs),
    /// Compare learning methods over numbers of labels (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Compare(learn::LearnArgs),
    /// Repeat a published experiment (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Reproduce(learn::LearnArgs),
    #[command(subcommand)]
    Record(record::RecordCommand),
    Labels(labels::LabelsArgs),
    Archive(archive::ArchiveArgs),
    Restore(restore::RestoreArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("beltsight: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Models(args) => models::run(args),
        Command::Tokens(args) => tokens::run(args),
        Command::Round(args) => round::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Belt(command) => belt::run(&command),
        Command::Camera(command) => camera::run(&command),
        Command::Train(args) => learn::run("train", &args),
        Command::Distill(args) => learn::run("distill", &args),
        Command::Compare(args) => learn::run("compare", &args),
        Command::Reproduce(args) => learn::run("reproduce", &args),
        Command::Record(command) => record::run(command),
        Command::Labels(args) => labels::run(args),
        Command::Archive(args) => archive::run(args),
        Command::Restore(args) => restore::run(&args),
        Command::Bench(command) => bench::run(command),
    }
}
