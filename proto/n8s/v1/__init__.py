"""The wire contract, version 1: messages and stubs generated from the .proto files beside them."""
