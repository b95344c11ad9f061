"""Makers and readers of small video files, by PyAV alone, so that they do not share the code under test."""

from fractions import Fraction

import numpy as np

MILLISECONDS = Fraction(1, 1000)


def flat(value, height=32, width=48):
    """Planes of a 4:2:0 picture of one colour, value = (Y, U, V)."""
    dtype = np.uint8 if max(value) < 256 else np.uint16
    half = (-(-height // 2), -(-width // 2))
    return [np.full(size, v, dtype) for size, v in zip([(height, width), half, half], value, strict=True)]


def moving(k, height=32, width=48):
    """Planes of a picture with a bright square, whose place says which one it is, on a slope."""
    luma = np.broadcast_to(np.linspace(40, 120, width), (height, width)).astype(np.uint8).copy()
    left = 2 * (k % (width // 2 - 4))
    luma[8:16, left : left + 8] = 220
    return [luma, *flat((0, 110, 150), height, width)[1:]]


def make_video(path, pictures, *, codec="libx264", pix_fmt="yuv420p", times=None, options=None, tags=(), turn=None,
               sound=False, subtitle=None, chapters=(), attachments=(), metadata=None, container_options=None, rate=25,
               aspect=None):  # fmt: skip
    """Write a video file.

    Args:
        pictures: lists of planes.
        times: of presentation in milliseconds; none: 25 a second.
        tags: matrix, range (1 limited, 2 full), primaries, transfer.
        turn: keywords of `set_display_rotation`.
        sound: a second of a sine, AAC, as long as the pictures; or the name of a codec.
        subtitle: (codec, text) from 100 to 300 ms.
        chapters: (start in ms, title) of each; ends with the next.
    """
    import av

    height, width = pictures[0][0].shape
    with av.open(str(path), "w", container_options=container_options or {}) as file:
        file.metadata.update(metadata or {})
        video = file.add_stream(codec, rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = MILLISECONDS if times else Fraction(1, rate)
        if tags:
            context = video.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if turn:
            video.set_display_rotation(**turn)
        audio = file.add_stream("aac" if sound is True else sound, rate=48000) if sound else None
        if audio is not None:
            audio.metadata["language"] = "deu"
        text = file.add_mux_stream(subtitle[0]) if subtitle else None
        for attachment in attachments:
            file.add_attachment(*attachment)
        ends = [start for start, _ in chapters[1:]] + [len(pictures) * 40]
        if chapters:
            file.set_chapters([
                {"id": k, "start": start, "end": end, "time_base": MILLISECONDS, "metadata": {"title": title}}
                for k, ((start, title), end) in enumerate(zip(chapters, ends, strict=True))
            ])  # fmt: skip
        for k, planes in enumerate(pictures):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
                rows[:, : plane.width] = values
            frame.pts, frame.time_base = (times[k] if times else k), video.codec_context.time_base
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None:
            for packet in sine(av, audio, (times[-1] if times else len(pictures) * 1000 // rate) / 1000):
                file.mux(packet)
        if text is not None:
            data = subtitle[1].encode()
            data = len(data).to_bytes(2, "big") + data if subtitle[0] == "mov_text" else data
            file.mux(packet_of(av, text, data, 100, 200))
    return path


def packet_of(av, stream, data, start, duration):
    packet = av.Packet(data)
    packet.stream, packet.time_base = stream, MILLISECONDS
    packet.pts = packet.dts = start
    packet.duration = duration
    return packet


def sine(av, stream, seconds):
    """Packets of a tone of 440 Hz."""
    layout = stream.codec_context.format.name
    for first in range(0, int(48000 * seconds), 960):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(first, first + 960) / 48000)
        samples = wave.astype(np.float32)[None].repeat(2, 0)
        if layout == "s16":
            samples = (samples * 32767).astype(np.int16)
        if not layout.endswith("p"):
            samples = samples.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=layout, layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def packets(path, kind):
    """The bytes of the packets of the first stream of a kind."""
    import av

    with av.open(str(path)) as file:
        stream = next(stream for stream in file.streams if stream.type == kind)
        return [bytes(packet) for packet in file.demux(stream) if packet.size]


def frames(path):
    """The decoded frames."""
    import av

    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def times(path):
    """The presentation times in seconds."""
    return [float(frame.time) for frame in frames(path)]


def rgb(frame):
    """A frame as RGB by FFmpeg's own conversion, in [0, 1]."""
    if frame.format.components[0].bits == 8:
        return frame.to_ndarray(format="rgb24").astype(float) / 255
    return frame.to_ndarray(format="rgb48le").astype(float) / 65535


def luma(frame):
    """The first plane of a frame."""
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    plane = frame.planes[0]
    return np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].copy()
