"""What all parts of Nebulnetes share: the wire contract, names, the catalogue of GPU models."""
