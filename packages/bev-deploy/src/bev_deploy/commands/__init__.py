"""What ``bev-deploy`` can be told to do: one module per command, its options in :mod:`bev_deploy.commands.options`."""
