"""Sockets before there is any HTTP.

Bind, listen, accept, wait for events, and pass sockets from process to process.

 - bind         addresses to bound sockets
 - unix_socket  unix sockets and their files
 - listener     a listening socket, and the endpoints of what it accepts
 - inherited    listeners that another program has made
 - acceptor     when listeners are watched, and the errors of accept()
 - poller       epoll, kqueue, poll or select behind one interface
 - kernel       what the kernel knows about a connection: whether its client has left, and what it has received
 - handover     open connections from one process to another
"""
