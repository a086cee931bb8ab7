//! What can be wrong with a publisher's codec configuration.

/// Why an encoder's description of a track cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an AVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 5.3.3.1).
    #[error(
        "the H.264 configuration cannot be read ({0}): restart the encoder, or set it to H.264 High profile 4:2:0"
    )]
    Avc(String),
    /// Not an AudioSpecificConfig (ISO/IEC 14496-3 section 1.6.2.1).
    #[error(
        "the AAC configuration cannot be read ({0}): restart the encoder, or set it to AAC-LC, 44.1 or 48 kHz, stereo"
    )]
    Aac(&'static str),
    /// A box came out larger than its format allows.
    #[error("a chunk cannot be written ({0})")]
    Boxes(String),
}
