"""The gateways: they call applications, by WSGI or ASGI.

A gateway makes the environ or scope of a request, and gives the response to the stream.

 - wsgi            PEP 3333: the environ, and the call
 - interface       whether an object is a WSGI or an ASGI application, or none
 - exchange        one call and its response
 - exchange_log    its record in the log
 - shortcut        a response of one piece, by one send
 - reply           the bytes of a response, without I/O
 - asgi            ASGI 3: the scope, and the call
 - asgi_http       one HTTP request of ASGI: receive, send, and the end
 - asgi_response   its response: which bytes are sent, and when
 - asgi_websocket  one WebSocket of ASGI: the handshake, messages, and the end
 - pending         the parts of a response that are kept until the step of its application ends
 - blame           whether an error is the application's fault
 - given_file      files that an ASGI application lets the server send
 - lifespan        the start and the end of an ASGI application
 - complaints      faults of an application, logged once
 - proxies         facts about the client that proxies have sent
 - filewrapper     wsgi.file_wrapper, and which files the kernel can send
 - redirect        the application of --redirect-http
"""
