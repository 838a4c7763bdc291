# The recipe's run: what both models share beside the data. mmsegmentation 0.x config, data rather than code.

runner = dict(type="EpochBasedRunner", max_epochs=12)

# Mixed precision where the device has it; `train --precision` overrides it.
fp16 = dict(loss_scale=512.0)
optimizer_config = dict()

checkpoint_config = dict(by_epoch=True, interval=1)
evaluation = dict(interval=1, metric="mIoU", pre_eval=True)
log_config = dict(interval=50, hooks=[dict(type="TextLoggerHook"), dict(type="TensorboardLoggerHook")])

dist_params = dict(backend="nccl")
log_level = "INFO"
load_from = None
resume_from = None
workflow = [("train", 1)]
cudnn_benchmark = True
