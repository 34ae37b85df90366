"""The models, in plain torch: classifier, variational autoencoder and UNet, and the files that they come from."""
