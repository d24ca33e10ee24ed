"""What the agent speaks with the kubelet, generated from the .proto file beside it."""
