//! Generates the gRPC code of the core's network from `proto/`, without an installed protoc.
//!
//! Only for feature `grpc`: without it there is nothing to generate.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    {
        let descriptors = protox::compile(["tessera/core/v1/core.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
