"""Reads a recorded exchange, knowing nothing but PROTOCOL.md: prints each frame of `>` and `<` lines with its fields.

    python3 decode.py exchange.txt
"""
import json
import struct
import sys

NEEDED = object()
TYPES = {
    1: ("hello", dict(proto_min=NEEDED, proto_max=NEEDED, cluster=NEEDED, node=NEEDED, incarnation=NEEDED, features=[], limits=None, functions=None)),
    2: ("hello ack", dict(proto=NEEDED, node=NEEDED, incarnation=NEEDED, features=[], limits=None, functions=None)),
    3: ("refuse", dict(reason=NEEDED, message="")),
    4: ("ask functions", dict()),
    5: ("functions part", dict(functions=NEEDED, is_last=NEEDED)),
    16: ("subscribe", dict(producer=NEEDED, signature=NEEDED, max_demand=NEEDED, min_demand=NEEDED, session=None, selector=None, instance=0, consumer=None, announces=False, takes_columns=False)),
    17: ("accepted", dict(instances=1, takes_answers=False, takes_rows=False)),
    18: ("refused", dict(reason=NEEDED, message="", published=None)),
    19: ("credit", dict(up_to=NEEDED, bytes_up_to=None)),
    20: ("cancel", dict(reason=NEEDED, begun=0, is_down=False)),
    21: ("ack", dict(up_to=NEEDED, handled=False)),
    22: ("resume", dict(session=NEEDED, epoch=NEEDED, arrived=NEEDED)),
    23: ("resumed", dict()),
    24: ("answer", dict(number=NEEDED, ranges=NEEDED, verdict=NEEDED, delay_ms=0, message="", result=None)),
    25: ("answered", dict(up_to=NEEDED)),
    26: ("revoke", dict(ranges=NEEDED)),
    34: ("done", dict(last_seq=NEEDED)),
    35: ("failed", dict(last_seq=NEEDED, reason=NEEDED, origin="", message="", is_cancel=False)),
}


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise ValueError("cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def rest(self):
        return self.take(len(self.data) - self.at)

    def is_empty(self):
        return self.at == len(self.data)

    def leb128(self):
        number, shift = 0, 0
        while True:
            byte = self.number("B")
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (byte == 0 and shift > 0) or number >= 1 << 64:
                    raise ValueError("not the short form of a number of 64 bits")
                return number
            shift += 7

    def value(self, depth=0):
        """A MessagePack value."""
        if depth > 64:
            raise ValueError("too deep")
        marker = self.number("B")
        numbers = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
        lengths = {0xC4: "B", 0xC5: "H", 0xC6: "I", 0xD9: "B", 0xDA: "H", 0xDB: "I", 0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}
        if marker < 0x80:
            return marker
        if marker >= 0xE0:
            return marker - 0x100
        if marker in numbers:
            return self.number(numbers[marker])
        if marker in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[marker]
        if marker < 0x90:
            return self.map(marker & 0x0F, depth)
        if marker < 0xA0:
            return [self.value(depth + 1) for _ in range(marker & 0x0F)]
        if marker < 0xC0:
            return self.take(marker & 0x1F).decode()
        if marker not in lengths:
            raise ValueError(f"marker {marker:#x}")
        length = self.number(lengths[marker])
        if marker <= 0xC6:
            return self.take(length)
        if marker <= 0xDB:
            return self.take(length).decode()
        if marker <= 0xDD:
            return [self.value(depth + 1) for _ in range(length)]
        return self.map(length, depth)

    def map(self, count, depth):
        pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(count)]
        return dict(pairs)


def decode(data):
    frame = Bytes(data)
    length = frame.number("I")
    kind = frame.number("B")
    body = Bytes(frame.take(length - 1))
    if not frame.is_empty():
        raise ValueError("more than a frame")
    if kind == 32:
        fields = dict(first_seq=body.leb128(), count=body.leb128(), attempt=body.leb128())
        payload = Bytes(body.rest())
        fields["events"] = [shown(payload.value()) for _ in range(fields["count"])]
        if not payload.is_empty():
            raise ValueError("more than the events")
        return "events", fields
    if kind == 37:
        fields = dict(first_seq=body.leb128(), count=body.leb128(), attempt=body.leb128())
        fields["numbers"] = columns(body, fields["count"])
        if not body.is_empty():
            raise ValueError("more than the numbers")
        return "columns", fields
    if kind == 33:
        fields = dict(seq=body.leb128(), attempt=body.leb128(), index=body.leb128(), flags=body.number("B"), total_len=body.leb128())
        fields["payload"] = shown(body.rest())
        return "chunk", fields
    if kind == 36:
        number, last, table = body.leb128(), 0, []
        for _ in range(body.leb128()):
            difference = body.leb128()
            last += 1 + (difference // 2 if difference % 2 == 0 else -(difference + 1) // 2)
            table.append((last, body.leb128()))
        results = [(event, shown(body.take(length))) for event, length in table]
        if not body.is_empty():
            raise ValueError("more than the results")
        return "results", dict(number=number, results=results)
    name, known = TYPES[kind]
    said = body.value()
    if not body.is_empty():
        raise ValueError("more than a map")
    fields = {field: said.get(field, default) for field, default in known.items()}
    missing = [field for field, value in fields.items() if value is NEEDED]
    if missing:
        raise ValueError(f"{name} without {missing}")
    return name, fields


def columns(body, count):
    """The 64 bits of each number, as a number without a sign."""
    little = lambda count: int.from_bytes(body.take(count), "little")
    numbers = [little(8)]
    while len(numbers) < count:
        block = min(128, count - len(numbers))
        least, width = little(8), little(1)
        if width > 64:
            raise ValueError(f"numbers of {width} bits")
        bits = little((block * width + 7) // 8)
        for _ in range(block):
            numbers.append((numbers[-1] + least + (bits & ((1 << width) - 1))) % (1 << 64))
            bits >>= width
        if bits:
            raise ValueError("not filled up with zeros")
    return numbers


def shown(value):
    return f"{len(value)} bytes, {value[:4].hex()}.." if isinstance(value, bytes) else value


with open(sys.argv[1]) as lines:
    for line in lines:
        if line[0] in "<>":
            name, fields = decode(bytes.fromhex(line[2:].strip()))
            print(line[0], name, json.dumps(fields))
