"""What counts as a submission, and what is said about anything else."""

import json

import numpy as np
import pytest

from bev_vis.submission import boxes_of_sample, read_submission

BOX = {
    "sample_token": "t",
    "translation": [1.0, 2.0, 3.0],
    "size": [2.0, 4.0, 1.5],  # width, length, height
    "rotation": [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)],
    "velocity": [5.0, 6.0],
    "detection_name": "pedestrian",
    "detection_score": 0.7,
    "attribute_name": "",
}


def test_a_box_is_read_with_its_sides_in_our_order():
    boxes = boxes_of_sample({"t": [BOX, BOX | {"velocity": [float("nan")] * 2}]}, "t")
    assert len(boxes) == 2
    assert boxes.center[0].tolist() == [1, 2, 3]
    assert boxes.size[0].tolist() == [4, 2, 1.5]
    np.testing.assert_allclose(boxes.rotation[0, :, 0], [0, 1, 0], atol=1e-12)
    assert boxes.velocity[0].tolist() == [5, 6, 0]
    assert boxes.label.tolist() == [8, 8]
    assert boxes.score.tolist() == [0.7, 0.7]


def test_a_sample_without_boxes_is_fine():
    boxes = boxes_of_sample({"t": []}, "t")
    assert len(boxes) == 0
    assert boxes.corners().shape == (0, 8, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xd8\xff", "is not JSON"),
        (b"[1, 2]", "is not a nuScenes submission.*it is a list"),
        (b'{"mean_ap": 0.3}', "is not a nuScenes submission.*one with the keys.*mean_ap"),
        (b'{"results": [1]}', "is not a nuScenes submission"),
        (b'{"results": {"t": 3}}', "is not a nuScenes submission"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_submission(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json is missing"):
        read_submission(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="cannot be read"):
        read_submission(tmp_path)


def test_results_are_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": {}, "results": {"t": [BOX]}}))
    assert list(read_submission(path)) == ["t"]


def test_a_sample_that_is_not_there_gets_the_nearest_name():
    with pytest.raises(ValueError, match="sample abcdefgx is not in the results; they hold 2, for example abcdefgh"):
        boxes_of_sample({"zzz": [], "abcdefgh": []}, "abcdefgx")
    with pytest.raises(ValueError, match="they are empty"):
        boxes_of_sample({}, "abc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [1, 2]}, "'size' needs 3 numbers, it has 2"),
        ({"translation": [1, 2, None]}, "'translation' has a value that is not a finite number"),
        ({"translation": ["a", 2, 3]}, "could not convert"),
        ({"rotation": [0, 0, 0, 0]}, "zero quaternion"),
        ({"detection_name": "dog"}, "'dog', it can be one of car, truck"),
        ({"detection_score": float("inf")}, "'detection_score' has a value"),
    ],
)
def test_a_broken_box_is_told(change, message):
    with pytest.raises(ValueError, match=f"a box of sample t in the results is not .*{message}"):
        boxes_of_sample({"t": [BOX, BOX | change]}, "t")


def test_a_missing_field_is_told():
    with pytest.raises(ValueError, match="no field 'velocity'"):
        boxes_of_sample({"t": [{name: value for name, value in BOX.items() if name != "velocity"}]}, "t")
    with pytest.raises(ValueError, match="is not a nuScenes detection box"):
        boxes_of_sample({"t": ["box"]}, "t")
