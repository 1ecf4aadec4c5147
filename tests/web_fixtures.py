"""What the tests of the web page share: a small size, and how an address is asked."""

import http.client
import urllib.parse

H, W, SCALE = 48, 64, 3


def connect(server):
    """A connection to the host of an address, past any proxy."""
    host = urllib.parse.urlsplit(server).netloc
    return http.client.HTTPConnection(host, timeout=60)


def fetched(server, address):
    """(status, content) of an address relative to the page's."""
    connection = connect(server)
    try:
        connection.request("GET", "/" + address)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def decoded(content):
    """The pixels of a PNG file of 8 or 16 bits."""
    from imagecodecs import png_decode

    return png_decode(content)
