"""The systems, each derived from the nearest one."""

from __future__ import annotations

import difflib
from dataclasses import replace

from bev_heads import CenterLossOptions, DecodeOptions, NmsOptions
from bev_lss import DepthBins
from bev_nuscenes import OCCUPANCY_CLASSES, BevAugmentation
from bev_ops import BevGrid

from .recipe import (
    BevEncoderOptions,
    DepthNetOptions,
    HeadOptions,
    OccupancyOptions,
    Published,
    Recipe,
    SwinOptions,
    TemporalOptions,
    TrainingOptions,
    ViewOptions,
)
from .tiny import tiny_recipes

__all__ = ["get_recipe", "list_recipes"]

_BEVDET = "BEVDet repository (dev2.1), table of detection results"
_BEVDET_OCC = "BEVDet repository (dev2.1), table of occupancy results"
_GEOMIM = "GeoMIM repository, table of detection results"
_GEOMIM_OCC = "GeoMIM repository, table of occupancy results"

# Footprints are scaled before NMS, per class: small objects grow so that duplicates overlap (Scale-NMS).
_SCALE_NMS = NmsOptions(kind="rotated", threshold=0.2, rescale=(1.0, 0.7, 0.7, 0.4, 0.55, 1.1, 1.0, 1.0, 1.5, 3.5))
_ALL_ONE = (1.0,) * 10  # code weights: velocity counts as much as everything else


# -- single frame ------------------------------------------------------------------------------------------------------


def _r50() -> Recipe:
    return Recipe(
        name="bevdet-r50",
        description="single frame, ResNet-50",
        published=Published(map=28.3, nds=35.0, source=_BEVDET),
        head=HeadOptions(decode=DecodeOptions(nms=(_SCALE_NMS,))),
        training=TrainingOptions(epochs=24, weight_decay=1e-7, milestones=(24,), class_balanced=False),
    )


def _r50_cbgs() -> Recipe:
    return replace(
        _r50(),
        name="bevdet-r50-cbgs",
        description="single frame, ResNet-50, class-balanced sampling",
        published=Published(map=31.3, nds=39.8, source=_BEVDET),
        training=TrainingOptions(),
    )


# -- history -----------------------------------------------------------------------------------------------------------


def _r50_4d() -> Recipe:
    base = _r50_cbgs()
    return replace(
        base,
        name="bevdet-r50-4d-cbgs",
        description="one past frame, ResNet-50",
        published=Published(map=35.4, nds=44.9, map_after=31.4, nds_after=44.7, source=_BEVDET),
        view=replace(base.view, channels=80),
        temporal=TemporalOptions(history=1, frame_blocks=2),
        bev_encoder=BevEncoderOptions(channels=(160, 320, 640)),
        head=replace(base.head, loss=CenterLossOptions(code_weights=_ALL_ONE)),
        training=replace(base.training, temporal_start_epoch=2),
    )


def _r50_4dlongterm() -> Recipe:
    return replace(
        _r50_4d(),
        name="bevdet-r50-4dlongterm-cbgs",
        description="eight past frames, ResNet-50",
        published=Published(map=35.4, nds=48.7, map_after=34.8, nds_after=48.2, source=_BEVDET),
        temporal=TemporalOptions(history=8, frame_blocks=2),
    )


# -- LiDAR-supervised depth --------------------------------------------------------------------------------------------


def _r50_4d_depth() -> Recipe:
    base = _r50_4d()
    heavier = CenterLossOptions(heatmap_weight=6.0, box_weight=1.5, code_weights=_ALL_ONE)  # balances the depth loss
    return replace(
        base,
        name="bevdet-r50-4d-depth-cbgs",
        description="one past frame, LiDAR-taught depth, ResNet-50",
        published=Published(map=36.2, nds=48.4, map_after=36.1, nds_after=48.3, source=_BEVDET),
        backbone=replace(base.backbone, neck_channels=512),
        view=replace(base.view, depth=DepthBins(1.0, 60.0, 0.5), depth_net=DepthNetOptions(), depth_loss_weight=3.0),
        head=replace(base.head, loss=heavier),
    )


def _r50_4dlongterm_depth() -> Recipe:
    return replace(
        _r50_4d_depth(),
        name="bevdet-r50-4dlongterm-depth-cbgs",
        description="eight past frames, LiDAR-taught depth, ResNet-50",
        published=Published(map=39.9, nds=51.9, map_after=39.4, nds_after=51.5, source=_BEVDET),
        temporal=TemporalOptions(history=8, frame_blocks=2),
    )


# -- temporal stereo ---------------------------------------------------------------------------------------------------


def _r50_4d_stereo() -> Recipe:
    base = _r50_4d_depth()
    return replace(
        base,
        name="bevdet-r50-4d-stereo-cbgs",
        description="one past frame, temporal stereo, ResNet-50",
        published=Published(map=38.4, nds=50.0, map_after=38.2, nds_after=49.9, source=_BEVDET),
        backbone=replace(base.backbone, neck_channels=256),
        view=replace(
            base.view, depth=DepthBins(1.0, 60.0, 1.0, log_spaced=True), depth_net=DepthNetOptions(stereo=True)
        ),
    )


def _r50_4dlongterm_stereo() -> Recipe:
    base = _r50_4d_stereo()
    return replace(
        base,
        name="bevdet-r50-4dlongterm-stereo-cbgs",
        description="eight past frames, temporal stereo, ResNet-50",
        published=Published(map=41.5, nds=52.7, map_after=41.1, nds_after=52.3, source=_BEVDET),
        temporal=TemporalOptions(history=8, frame_blocks=2),
        training=replace(base.training, batch_size=4),
    )


# -- Swin and GeoMIM ---------------------------------------------------------------------------------------------------


def _six_tasks() -> HeadOptions:
    """Similar classes share a head; barriers, which stand in rows, are told apart by distance instead of overlap."""
    post_max = 83
    factors = ((0.7,), (0.4, 0.6), (0.3, 0.4), None, (1.0, 1.0), (1.5, 2.5))
    nms = tuple(
        NmsOptions(kind="circle", radius=1.0, post_max=post_max)
        if rescale is None
        else NmsOptions(kind="rotated", threshold=0.125, rescale=rescale, post_max=post_max)
        for rescale in factors
    )
    return HeadOptions(
        tasks=(
            ("car",),
            ("truck", "construction_vehicle"),
            ("bus", "trailer"),
            ("barrier",),
            ("motorcycle", "bicycle"),
            ("pedestrian", "traffic_cone"),
        ),
        loss=CenterLossOptions(code_weights=_ALL_ONE),
        decode=DecodeOptions(nms=nms),
    )


def _geomim_swin(*, neck_channels: int, drop_path: float) -> SwinOptions:
    return SwinOptions(
        windows=(16, 16, 16, 8),
        shifted=False,
        position_embedding=(56, 56),
        drop_path=drop_path,
        neck_channels=neck_channels,
    )


def _swinb_4d() -> Recipe:
    base = _r50_4d()
    return replace(
        base,
        name="bevdet-swinb-4d-256x704-cbgs",
        description="one past frame, Swin-B",
        published=Published(map=33.98, nds=47.19, source=_GEOMIM),
        backbone=SwinOptions(windows=(16, 16, 16, 8), pretrained="swin_base_patch4_window7_224.ms_in1k"),
        training=replace(base.training, batch_size=4),
    )


def _swinb_4d_geomim() -> Recipe:
    base = _swinb_4d()
    return replace(
        base,
        name="bevdet-swinb-4d-256x704-cbgs-geomim",
        description="one past frame, GeoMIM Swin-B",
        published=Published(map=42.25, nds=53.1, source=_GEOMIM),
        backbone=_geomim_swin(neck_channels=256, drop_path=0.2),
        training=replace(base.training, weight_decay=0.05, layer_decay=0.8),
    )


def _stbase_4d_stereo() -> Recipe:
    base = _r50_4d_stereo()
    return replace(
        base,
        name="bevdet-stbase-4d-stereo-512x1408-cbgs",
        description="one past frame, temporal stereo, Swin-B",
        published=Published(map=47.2, nds=57.6, source=_BEVDET),
        input_size=(512, 1408),
        backbone=SwinOptions(
            checkpointing=(2, 2, 18, 2), pretrained="swin_base_patch4_window12_384.ms_in22k", neck_channels=512
        ),
        view=replace(
            base.view,
            grid=BevGrid(x=(-51.2, 51.2, 0.4), y=(-51.2, 51.2, 0.4), z=(-5.0, 3.0, 8.0)),
            depth=DepthBins(1.0, 60.0, 0.5, log_spaced=True),
        ),
        head=_six_tasks(),
        training=replace(base.training, batch_size=2, syncbn_start_epoch=2),
    )


def _swinb_4d_stereo_geomim_512() -> Recipe:
    base = _stbase_4d_stereo()
    return replace(
        base,
        name="bevdet-swinb-4d-stereo-512x1408-cbgs-geomim",
        description="one past frame, temporal stereo, GeoMIM Swin-B",
        published=Published(map=52.04, nds=60.92, source=_GEOMIM),
        backbone=_geomim_swin(neck_channels=512, drop_path=0.2),
        training=replace(base.training, weight_decay=0.05, layer_decay=0.85),
    )


def _swinb_4d_stereo_geomim_256() -> Recipe:
    base = _swinb_4d_stereo_geomim_512()
    return replace(
        base,
        name="bevdet-swinb-4d-stereo-256x704-cbgs-geomim",
        published=Published(map=45.33, nds=55.1, source=_GEOMIM),
        input_size=(256, 704),
        view=_r50_4d_stereo().view,
        training=replace(base.training, batch_size=4),
    )


# -- occupancy ---------------------------------------------------------------------------------------------------------


def _occ_r50_4d_stereo() -> Recipe:
    base = _r50_4d_stereo()
    return replace(
        base,
        name="bevdet-occ-r50-4d-stereo-24e",
        description="occupancy, one past frame, temporal stereo, ResNet-50",
        published=Published(miou=36.1, source=_BEVDET_OCC),
        classes=OCCUPANCY_CLASSES,
        view=ViewOptions(
            grid=BevGrid(x=(-40.0, 40.0, 0.4), y=(-40.0, 40.0, 0.4), z=(-1.0, 5.4, 0.4)),
            depth=DepthBins(1.0, 45.0, 0.5),
            channels=32,
            depth_net=DepthNetOptions(stereo=True),
            depth_loss_weight=0.05,
        ),
        temporal=TemporalOptions(history=1, frame_blocks=1),
        bev_encoder=BevEncoderOptions(channels=(32, 64, 128), blocks=(1, 2, 4), strides=(1, 2, 2), out_channels=32),
        head=OccupancyOptions(),
        bev_augmentation=BevAugmentation(rotate_deg=(0.0, 0.0), scale=(1.0, 1.0), flip_x=0.5, flip_y=0.5),
        # The name says 24 epochs; the published file trains 100 at half the learning rate, without class balancing.
        training=TrainingOptions(
            epochs=100,
            milestones=(100,),
            batch_size=4,
            learning_rate=1e-4,
            class_balanced=False,
            load_from_detection=True,
        ),
    )


def _occ_r50_4d_stereo_384() -> Recipe:
    return replace(
        _occ_r50_4d_stereo(),
        name="bevdet-occ-r50-4d-stereo-24e_384704",
        published=Published(miou=37.3, source=_BEVDET_OCC),
        input_size=(384, 704),
    )


def _occ_r50_4dlongterm_stereo() -> Recipe:
    base = _occ_r50_4d_stereo_384()
    return replace(
        base,
        name="bevdet-occ-r50-4dlongterm-stereo-24e_384704",
        description="occupancy, eight past frames, temporal stereo, ResNet-50",
        published=Published(miou=39.3, source=_BEVDET_OCC),
        view=replace(base.view, depth_net=DepthNetOptions(stereo=True, checkpointing=True)),
        temporal=TemporalOptions(history=8, frame_blocks=1),
        bev_encoder=replace(base.bev_encoder, checkpointing=True),
    )


def _occ_stbase() -> Recipe:
    base = _occ_r50_4d_stereo()
    return replace(
        base,
        name="bevdet-occ-stbase-4d-stereo-512x1408-24e",
        description="occupancy, one past frame, temporal stereo, Swin-B",
        published=Published(miou=42.0, source=_BEVDET_OCC),
        input_size=(512, 1408),
        backbone=_stbase_4d_stereo().backbone,
        training=replace(base.training, learning_rate=2e-4, batch_size=2, syncbn_start_epoch=0),
    )


def _occ_swinb_geomim() -> Recipe:
    base = _occ_stbase()
    return replace(
        base,
        name="bevdet-occ-swinb-4d-stereo-512x1408-24e-geomim",
        description="occupancy, one past frame, temporal stereo, GeoMIM Swin-B",
        published=Published(miou=45.0, source=_GEOMIM_OCC),
        backbone=replace(_geomim_swin(neck_channels=512, drop_path=0.25), windows=(16, 16, 16, 16)),
        training=replace(base.training, weight_decay=0.05, layer_decay=0.85, load_from_detection=False),
    )


def _occ_swinb_geomim_load() -> Recipe:
    base = _occ_swinb_geomim()
    return replace(
        base,
        name="bevdet-occ-swinb-4d-stereo-512x1408-24e-geomim-load",
        description="the same, trained on from a detection checkpoint",
        published=Published(miou=45.73, source=_GEOMIM_OCC),
        training=replace(base.training, load_from_detection=True),
    )


def _occ_swinl_geomim() -> Recipe:
    base = _occ_swinb_geomim()
    return replace(
        base,
        name="bevdet-occ-swinl-4d-stereo-512x1408-24e-geomim",
        description="occupancy, one past frame, temporal stereo, GeoMIM Swin-L",
        published=Published(miou=46.27, source=_GEOMIM_OCC),
        backbone=replace(base.backbone, width=192, heads=(6, 12, 24, 48), drop_path=0.35, checkpointing=(2, 2, 0, 0)),
        training=replace(base.training, epochs=75, milestones=(75,)),
    )


_RECIPES = {
    recipe.name: recipe
    for recipe in (
        _r50(),
        _r50_cbgs(),
        _r50_4d(),
        _r50_4d_depth(),
        _r50_4d_stereo(),
        _r50_4dlongterm(),
        _r50_4dlongterm_depth(),
        _r50_4dlongterm_stereo(),
        _stbase_4d_stereo(),
        _swinb_4d(),
        _swinb_4d_geomim(),
        _swinb_4d_stereo_geomim_256(),
        _swinb_4d_stereo_geomim_512(),
        _occ_r50_4d_stereo(),
        _occ_r50_4d_stereo_384(),
        _occ_r50_4dlongterm_stereo(),
        _occ_stbase(),
        _occ_swinb_geomim(),
        _occ_swinb_geomim_load(),
        _occ_swinl_geomim(),
        *tiny_recipes(_r50()),
    )
}


def list_recipes() -> list[str]:
    """Names of all systems: the twenty published ones, then ours."""
    return list(_RECIPES)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: no such recipe; the message suggests the nearest.
    """
    if name in _RECIPES:
        return _RECIPES[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), _RECIPES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_RECIPES)}"
    raise ValueError(f"unknown recipe {name!r}: {hint}")
